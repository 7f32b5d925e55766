"""The most confident mistakes on the test images, and one test image of each class with its heat map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cctkit.data.source import Labels
from cctkit.data.splits import Split
from cctkit.evaluation.calibration import probabilities
from cctkit.evaluation.class_metrics import predicted_classes
from cctkit.inspection.looking import Looker, OnBatch, take
from cctkit.inspection.pictures import Picture, picture
from cctkit.inspection.run import Missing, NoDataError, part
from cctkit.runs.predictions import Predictions

_EXAMPLES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A test image. probability: of the class it is taken for, 0 to 1; heat: None if the model has no heat maps."""

    image: Picture
    heat: Picture | None
    id: str
    label: str
    taken_for: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """The training image whose pooled features are nearest to those of a test image."""

    image: Picture
    id: str
    label: str
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A test image of which the model is sure and wrong."""

    shown: Shown
    nearest: Neighbour


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classified:
    """Test images with their predictions, in the same order.

    found: int64 (n,), the class that each image is taken for; K for a row of logits that is not finite.
    confidence: float64 (n,), the probability of that class.
    """

    split: Split
    predictions: Predictions
    found: Labels
    confidence: "np.ndarray[Any, np.dtype[np.float64]]"

    @property
    def is_wrong(self) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Whether each image is taken for another class."""
        wrong: np.ndarray[Any, np.dtype[np.bool_]] = self.found != self.predictions.labels
        return wrong & (self.found < len(self.predictions.class_names))


def classified(predictions: Predictions, split: Split | None, *, temperature: float | None) -> Classified:
    """The test images and what the model takes them for.

    temperature: of the weights; None: the probabilities are the softmax of the logits.

    Raises: NoDataError if the predictions are of other images.
    """
    if split is None or list(predictions.ids) != split.ids():
        raise NoDataError("The predictions of the run are not of the test images that are there now.")
    logits = torch.from_numpy(predictions.logits).double()
    confidence = probabilities(logits, temperature).amax(dim=1).numpy()
    return Classified(split=split, predictions=predictions, found=predicted_classes(logits).numpy(), confidence=confidence)


def mistakes(looker: Looker, images: Classified, *, number: int, on_batch: OnBatch) -> Sequence[Mistake]:
    """The mistakes with the highest probability, highest first, at most `number`.

    Raises: NoDataError if there are none.
    """
    wrong = np.flatnonzero(images.is_wrong)
    if len(wrong) == 0:
        raise NoDataError("There are no mistakes: every test image is classified correctly.")
    if number == 0:
        raise NoDataError("Mistakes were left out (--mistakes 0).")
    chosen = wrong[np.argsort(-images.confidence[wrong], kind="stable")[:number]]
    near = looker.nearest_in_training(take(images.split, chosen), on_batch)
    train = looker.dataset.train
    neighbours = zip(
        take(train, near.positions),
        train.only(near.positions).ids(),
        train.labels[near.positions].tolist(),
        near.cosines.tolist(),
        strict=True,
    )
    names = images.predictions.class_names
    return [
        Mistake(shown=shown, nearest=Neighbour(image=picture(image), id=name, label=names[label], cosine=cosine))
        for shown, (image, name, label, cosine) in zip(_shown(looker, images, chosen), neighbours, strict=True)
    ]


def examples(looker: Looker, images: Classified) -> Sequence[Shown]:
    """The first test image of each of the first twelve classes, with its heat map.

    Raises: NoDataError if the model has no heat maps.
    """
    looker.need_pooling()
    _, firsts = np.unique(images.split.labels, return_index=True)
    return _shown(looker, images, firsts[:_EXAMPLES])


def _shown(looker: Looker, images: Classified, positions: Labels) -> list[Shown]:
    pixels = take(images.split, positions)
    heat = part(lambda: looker.heat_maps(pixels))
    maps: Sequence[Picture | None] = [None] * len(positions) if isinstance(heat, Missing) else heat
    names = [*images.predictions.class_names, "no class"]
    return [
        Shown(
            image=picture(image),
            heat=drawn,
            id=images.predictions.ids[position],
            label=names[int(images.split.labels[position])],
            taken_for=names[images.found[position]],
            probability=float(images.confidence[position]),
        )
        for image, drawn, position in zip(pixels, maps, positions.tolist(), strict=True)
    ]
