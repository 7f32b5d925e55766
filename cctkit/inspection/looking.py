"""What the model makes of some images: pooled features, heat maps, and the training images with the nearest features."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from cctkit.catalog.counts import grid_size
from cctkit.data.reading import images_at_once, read_ahead
from cctkit.data.source import Labels
from cctkit.data.splits import Dataset, Split
from cctkit.engine.device import DevicePolicy
from cctkit.errors import UserError
from cctkit.evaluation.evaluate import BATCH_SIZE, forward_pass
from cctkit.evaluation.load import LoadedModel
from cctkit.inspection.pictures import Picture, picture_of
from cctkit.inspection.run import NoDataError
from cctkit.models.convert import HEAD
from cctkit.prediction.heatmap import check_pools, overlay, pooling_weights

OnBatch = Callable[[int, int], None]
Features = np.ndarray[Any, np.dtype[np.float32]]


@contextlib.contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which a forward pass of `model` adds what its last layer sees: the pooled features (B, D)."""
    found: list[Tensor] = []
    modules = dict(model.named_modules())
    head = next(modules[name] for name in HEAD.values() if name in modules)
    handle = head.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0].detach().float()))
    try:
        yield found
    finally:
        handle.remove()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbours:
    """For each of m images the training image whose pooled features have the greatest cosine to its own.

    positions: int64 (m,), in the training split.
    cosines: float32 (m,), the first such image if there are several.
    """

    positions: Labels
    cosines: Features


@dataclass(slots=True, kw_only=True, eq=False)
class Looker:
    """A trained model on its device, and the images of its run."""

    trained: LoadedModel
    dataset: Dataset
    policy: DevicePolicy
    model: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.policy.prepare(self.trained.model)

    def nearest_in_training(self, images: Tensor, on_batch: OnBatch) -> Neighbours:
        """Compare uint8 images (m, 3, H, W) with every training image that is used without augmentation.

        on_batch: called with (done, total) after each batch of training images; may raise to stop.
        """
        train, workers = self.dataset.train, self.dataset.workers(None)
        pieces = [np.arange(first, min(first + BATCH_SIZE, len(train))) for first in range(0, len(train), BATCH_SIZE)]
        most = images_at_once(3 * math.prod(train.image_size), workers) if workers else BATCH_SIZE
        best, where = np.full(len(images), -2.0, dtype=np.float32), np.zeros(len(images), dtype=np.int64)
        stream = read_ahead(train.take, pieces, workers=workers, most=most)
        with contextlib.closing(stream), head_inputs(self.model) as found, self.policy.evaluating(self.model):
            self._forward(images)
            own = _unit(found.pop())  # (m, D)
            for rows, batch in zip(pieces, stream, strict=True):
                self._forward(batch)
                cosines = own @ _unit(found.pop()).T  # (m, b), in numpy: autocast would make bf16 of it
                place = cosines.argmax(axis=1)
                value = cosines[np.arange(len(images)), place]
                where = np.where(value > best, rows[place], where)
                best = np.maximum(value, best)
                on_batch(int(rows[-1]) + 1, len(train))
        return Neighbours(positions=where, cosines=best)

    def need_pooling(self) -> None:
        """Raises: NoDataError if the model has no heat maps."""
        try:
            check_pools(self.trained.model, self.trained.info)
        except UserError as error:
            raise NoDataError(f"There are no heat maps: {error.what}.") from error

    def heat_maps(self, images: Tensor) -> list[Picture]:
        """The weights of the sequence pooling over each of uint8 images (m, 3, H, W).

        Raises: NoDataError, as `need_pooling`.
        """
        self.need_pooling()
        with pooling_weights(self.model) as weights, self.policy.evaluating(self.model):
            self._forward(images)
        grid = grid_size(self.trained.info.model)
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        drawn = (overlay(one, each.reshape(grid), self.trained.preprocess) for one, each in zip(pixels, weights, strict=True))
        return [picture_of(np.asarray(image)) for image in drawn]

    def _forward(self, images: Tensor) -> None:
        forward_pass(self.model, images, preprocess=self.trained.preprocess, policy=self.policy)


def _unit(features: Tensor) -> Features:
    """Features (B, D) divided by their length; zeros stay."""
    rows = features.cpu().numpy()
    unit: Features = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def take(split: Split, positions: Labels) -> Tensor:
    """uint8 (m, 3, H, W) on the CPU."""
    return split.take(positions).cpu()
