"""McNemar's test of two models on the same images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.catalog.score import mcnemar_p_value
from cctkit.errors import UserError
from cctkit.runs.paths import RunPaths
from cctkit.runs.predictions import Predictions, read_predictions
from cctkit.text import safe_text

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The number of images that both models, one or neither classify correctly, and McNemar's p-value.

    unverified: files from earlier versions, which have no digest.
    """

    num_images: int
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float
    unverified: tuple[Path, ...]


def paired(a: Path, b: Path) -> Paired:
    """Compare two run directories or predictions files image by image.

    Raises: UserError if predictions are missing, malformed, or of different images.
    """
    files = [RunPaths(path).predictions if path.is_dir() else path for path in (a, b)]
    first, second = map(read_predictions, files)
    order = _matched(first, second, f"{safe_text(a)}, {safe_text(b)}")
    right_a, right_b = _right(first), _right(second)[order]
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    both = int((right_a & right_b).sum())
    total = len(right_a)
    return Paired(
        num_images=total,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=total - both - only_a - only_b,
        p_value=mcnemar_p_value(only_a, only_b),
        unverified=tuple(file for file, each in zip(files, (first, second), strict=True) if not each.is_verified),
    )


def _matched(first: Predictions, second: Predictions, where: str) -> list[int]:
    """The position in `second` of each image of `first`.

    Raises: UserError if they are not of the same images with the same labels.
    """
    remedy = "compare runs on the same test images; cctkit eval RUN writes a run's predictions"
    places = {name: i for i, name in enumerate(second.ids)}
    if not first.ids or len(set(first.ids)) != len(first.ids) or len(places) != len(second.ids):
        raise UserError("the predictions have no images, or contain the same image twice", where)
    if not _same_images(first, second) or places.keys() != set(first.ids):
        sizes = (
            f"{safe_text(first.split)}, {len(first.ids):,} images, and {safe_text(second.split)}, {len(second.ids):,} images"
        )
        if places.keys() == set(first.ids) and not (first.split_fingerprint and second.split_fingerprint):
            remedy = "write them again: cctkit eval RUN --dataset FOLDER --save-predictions FILE, and compare the files"
        raise UserError(f"the two runs were tested on different images: {sizes}", where, remedy)
    order = [places[name] for name in first.ids]
    labels_a = [first.class_names[i] for i in first.labels.tolist()]
    labels_b = [second.class_names[i] for i in second.labels[order].tolist()]
    if labels_a != labels_b:
        raise UserError("the same images have different labels in the two runs", where, remedy)
    return order


def _same_images(first: Predictions, second: Predictions) -> bool:
    """By the fingerprints of the images, or of the whole data sets for files that lack the former."""
    if first.split_fingerprint and second.split_fingerprint:
        return first.split_fingerprint == second.split_fingerprint
    return first.split == second.split and first.fingerprint == second.fingerprint


def _right(predictions: Predictions) -> "np.ndarray[Any, Any]":
    """Whether each image is classified correctly; logits that are not finite count as wrong."""
    import numpy as np

    finite = np.isfinite(predictions.logits).all(axis=1)
    found = predictions.logits.argmax(axis=1) == predictions.labels
    return np.asarray(finite & found)
