"""Heat maps: where the sequence pooling of CCT, CVT and TCT looks, laid over the image."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor, nn

from cctkit.catalog.counts import grid_size, has_class_token
from cctkit.config.size import Size
from cctkit.data.preprocess import Preprocess, decode
from cctkit.data.source import Pixels
from cctkit.errors import UserError
from cctkit.files import full_disk_named
from cctkit.models.classifier import CompactTransformer
from cctkit.models.weights import WeightsInfo
from cctkit.prediction.inputs import ImageFile
from cctkit.text import safe_text

_LEAST_SIDE, _MOST_SIDE = 256, 512  # of the pictures, in pixels
_MOST_OPAQUE = 0.7
Weights: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


@contextlib.contextmanager
def pooling_weights(model: nn.Module, *, wanted: bool = True) -> Iterator[list[Weights]]:
    """A list to which a forward pass of `model` adds the weights of its sequence pooling: (N,) for each image, of sum 1.

    The model computes as before (Hassani et al. 2021, section 3.2: softmax of a linear layer over the N tokens).
    """
    found: list[Weights] = []
    if not wanted:
        yield found
        return
    assert isinstance(model, CompactTransformer)

    def keep(_module: nn.Module, _inputs: object, scores: Tensor) -> None:  # (B, N, 1)
        found.extend(scores.detach().float().softmax(dim=1).squeeze(-1).cpu().numpy())

    handle = model.classifier.attention_pool.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def check_pools(model: nn.Module, info: WeightsInfo) -> None:
    """Check that the weights of a model's sequence pooling can be had.

    Raises: UserError.
    """
    name = safe_text(info.model.name)
    if has_class_token(info.model):
        reason = f"{name} has no sequence pooling: it classifies a class token"
        raise UserError(reason, "--heatmap", "use a model of the families CCT, CVT or TCT")
    if not isinstance(model, CompactTransformer):
        raise UserError(
            "an ONNX file gives logits only, no heat maps", "--heatmap", "name the run or weights file it was exported from"
        )


class HeatmapFolder:
    """A new folder of heat maps, `NAME.png` each, in the folders in which the images are."""

    def __init__(self, folder: Path, *, info: WeightsInfo, preprocess: Preprocess) -> None:
        self.folder, self.preprocess = folder, preprocess
        self.grid: Size = grid_size(info.model)

    def save(self, file: ImageFile, weights: Weights) -> str:
        """Draw the weights (N,) over an image; returns the path of the picture.

        Raises: UserError if it cannot be written.
        """
        pixels = decode(file.path, max_pixels=self.preprocess.max_pixels).pixels
        picture = overlay(pixels, weights.reshape(self.grid), self.preprocess)
        path = self._new_path(file.name)
        with full_disk_named(path, saved=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            out = open(path, "xb")  # noqa: SIM115
            try:
                with out:
                    picture.save(out, format="PNG")
            except OSError:
                path.unlink()
                raise
        return str(path)

    def _new_path(self, name: str) -> Path:
        """`a/1.jpg` -> `a/1.png`; `a/1-2.png` if that exists. The name of a file on another path loses what leads out."""
        parts = [part for part in Path(name).parts if part not in (os.sep, os.pardir, os.curdir)]
        stem = self.folder.joinpath(*(parts or ["image"])).with_suffix("")
        path, number = stem.with_name(f"{stem.name}.png"), 1
        while os.path.lexists(path):
            number += 1
            path = stem.with_name(f"{stem.name}-{number}.png")
        return path


def overlay(pixels: Pixels, weights: Weights, preprocess: Preprocess) -> Image.Image:
    """An image (height, width, 3) in grey, with the weights (rows, columns) in colour over the part that the model sees.

    The rest of the image is darkened. Colour and opacity grow with log(1 + weight / mean weight), up to all weight on one
    token: from blue over green to red. So a colour means the same in all pictures of a model.
    """
    from matplotlib import colormaps

    height, width = pixels.shape[:2]
    scale = _scale(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = Image.fromarray(pixels).convert("L")
    picture = grey.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR).convert("RGB")
    left, top, right, bottom = (round(edge * scale) for edge in preprocess.seen_box(height, width))
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)  # of an image of 1 x 10,000 pixels little is left
    tokens = Image.fromarray(np.log1p(weights * weights.size) / np.log1p(weights.size))
    strength = np.asarray(tokens.resize((right - left, bottom - top), Image.Resampling.BILINEAR))  # (h, w), 0 to 1
    seen = np.asarray(picture.crop((left, top, right, bottom)), dtype=np.float64)
    colours = 255 * colormaps["turbo"](strength)[:, :, :3]
    opacity = np.minimum(_MOST_OPAQUE, 1.5 * strength)[:, :, None]
    drawn = (1 - opacity) * seen + opacity * colours
    picture = picture.point(lambda value: value // 3)
    picture.paste(Image.fromarray(drawn.round().astype(np.uint8)), (left, top))
    return picture


def _scale(height: int, width: int) -> float:
    longest = max(height, width)
    if longest < _LEAST_SIDE:
        return -(-_LEAST_SIDE // longest)
    return min(1.0, _MOST_SIDE / longest)
