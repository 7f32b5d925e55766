"""`Classifier`: a trained model that takes image files, PIL images or arrays, and returns classes."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cctkit.data.preprocess import Preprocess, strict_pillow
from cctkit.data.source import BadImageError, Pixels
from cctkit.errors import UserError
from cctkit.evaluation.calibration import probabilities
from cctkit.evaluation.evaluate import BATCH_SIZE, forward_pass
from cctkit.evaluation.load import load_trained
from cctkit.evaluation.trained import find_trained
from cctkit.models.weights import WeightsInfo
from cctkit.text import safe_text

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | Pixels
"""The path of an image file; a PIL image of any mode; or uint8 pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""


class ClassProbability(NamedTuple):
    """A class and its probability, 0 to 1: with the temperature of the weights, if they have one."""

    class_name: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """The classes of an image.

    top: the most probable classes, best first.
    logits: float32 (K,), in the order of `Classifier.classes`, without the temperature.
    """

    top: tuple[ClassProbability, ...]
    logits: "np.ndarray[Any, np.dtype[np.float32]]"

    @property
    def class_name(self) -> str:
        """The most probable class."""
        return self.top[0].class_name

    @property
    def probability(self) -> float:
        """The probability of the most probable class, 0 to 1."""
        return self.top[0].probability


@dataclass(frozen=True, slots=True)
class Transform:
    """From a PIL image to the model's input: EXIF orientation, RGB, resize, crop, normalize. Can be pickled.

    Use it in place of torchvision's transforms: `ImageFolder(folder, transform=classifier.transform, loader=PIL.Image.open)`.
    ImageFolder's own loader ignores EXIF orientation and makes transparent pixels black.
    """

    preprocess: Preprocess

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 (3, H, W), on the CPU; uint8 for an ONNX file, which normalizes by itself.

        Raises: UserError if the pixels cannot be used.
        """
        try:
            pixels = self.preprocess.load_image(image)
        except BadImageError as error:
            raise UserError(str(error), "image") from error
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).unsqueeze(0)  # (1, 3, h, w)
        return self.preprocess.to_input(batch, channels_last=False)[0]


class Classifier:
    """A trained model that classifies images as `cctkit eval` does: with the same pixels, device policy and batches.

    source: a run directory or a weights file, as `cctkit predict --model`; None: the newest run in `runs/`.
    device: auto, cpu, cuda or mps.
    precision: float32, bf16 or fp16; None: that of the run, or what is fastest here.
    threads: of torch on the CPU; None: torch's default.
    max_pixels: a larger image is an error; None: as for the run.
    notify: called with each notice, such as which run is the newest.

    Attributes:

    model: an `nn.Module` in evaluation mode, on the device: a batch of what `transform` returns -> logits (B, K).
    transform: PIL image -> the model's input (3, H, W). It can be pickled, for the workers of a DataLoader.
    classes: the names of the K classes, in the order of the logits.
    info: what the weights file says: classes, data set, metrics, epoch, normalization.

    Raises: UserError.
    """

    model: nn.Module
    transform: Transform
    classes: tuple[str, ...]
    info: WeightsInfo

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        max_pixels: int | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        found = find_trained(source, notify=notify)
        loaded = load_trained(found.weights, threads=threads)
        if loaded.notice:
            notify(loaded.notice)
        self.policy = found.choose_policy(device=device, precision=precision, threads=threads)
        self.info = loaded.info
        self.classes = loaded.info.class_names
        self.preprocess = replace(loaded.preprocess, max_pixels=max_pixels or found.data.max_pixels)
        self.transform = Transform(self.preprocess)
        self.model = self.policy.prepare(loaded.model).eval()

    def predict(self, images: ImageLike | Iterable[ImageLike], *, top: int = 1) -> list[Prediction]:
        """Classify one or more images, in batches of 250; `images` may be a generator.

        images: paths, PIL images or uint8 arrays (RGB), also mixed; or a uint8 array (B, H, W, 3).
        top: number of classes in `Prediction.top`.

        Raises: UserError naming an image that is broken or of the wrong type.
        """
        if top < 1:
            raise UserError(f"top is {top}, expected at least 1", "Classifier.predict")
        batches, found = _batches(images), []
        for batch in batches:
            with strict_pillow():
                pixels = np.stack([self._pixels(image) for image in batch])
            found += self.predictions(self.logits(torch.from_numpy(pixels)), top=top)
        if any(prediction is None for prediction in found):
            raise UserError("the model's output is not finite", "Classifier.predict", "train it again: its weights are damaged")
        return [prediction for prediction in found if prediction is not None]

    def logits(self, images: Tensor) -> Tensor:
        """float32 (B, K) on the CPU; of uint8 images (B, 3, h, w) as `Preprocess.load` returns them."""
        with self.policy.evaluating(self.model):
            return forward_pass(self.model, images, preprocess=self.preprocess, policy=self.policy).cpu()

    def predictions(self, logits: Tensor, *, top: int) -> list[Prediction | None]:
        """The most probable classes for each row of `logits` (B, K); None for a row that is not finite."""
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
        best = probabilities(logits, self.info.temperature).gather(1, order).tolist()
        finite = logits.isfinite().all(dim=1).tolist()
        rows = zip(order.tolist(), best, finite, logits.numpy(), strict=True)
        return [
            Prediction(
                top=tuple(ClassProbability(self.classes[i], value) for i, value in zip(labels, values, strict=True)), logits=row
            )
            if is_finite
            else None
            for labels, values, is_finite, row in rows
        ]

    def _pixels(self, image: object) -> Pixels:
        """uint8 (3, h, w), as they are stored for the model."""
        try:
            if isinstance(image, (str, os.PathLike)):
                return self.preprocess.load(os.fspath(image))
            if isinstance(image, Image.Image):
                return self.preprocess.load_image(image)
            return self.preprocess.load_image(_of_array(image))
        except BadImageError as error:
            where = image if isinstance(image, (str, os.PathLike)) else "Classifier.predict"
            raise UserError(f"cannot read the image: {safe_text(error)}", safe_text(where)) from error


def _of_array(image: object) -> Image.Image:
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"an image of type {safe_text(type(image).__name__)}",
            "Classifier.predict",
            "expected paths, PIL images or uint8 arrays",
        )
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or image.size == 0:
        raise UserError(
            f"an array of {image.dtype} {image.shape}",
            "Classifier.predict",
            "expected uint8 of shape (H, W), (H, W, 3) or (H, W, 4), or (B, H, W, 3) for several images",
        )
    return Image.fromarray(image[:, :, 0] if image.ndim == 3 and channels == 1 else image)


def _batches(images: ImageLike | Iterable[ImageLike]) -> Iterator[list[object]]:
    is_one = isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)
    each: Iterator[Any] = iter([images] if is_one else images)  # type: ignore[arg-type]
    while batch := list(islice(each, BATCH_SIZE)):
        yield batch
