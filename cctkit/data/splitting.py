"""The splits that are made here, and the statistics of a split, as functions of a data set and some of its rows."""

from typing import Any

import numpy as np

from cctkit.data.packed import Packed
from cctkit.data.source import Labels
from cctkit.data.streamed import Streamed
from cctkit.errors import UserError
from cctkit.text import safe_text

Channels = tuple[float, float, float]

_LEAST_STD = 1 / 255  # of a channel that hardly varies: dividing by less would blow up its noise
_PIECE = 2**16  # images whose statistics are in memory at a time


def carve(store: Packed | Streamed, rows: Labels, share: float, seed: tuple[int, int], where: str) -> tuple[Labels, Labels]:
    """`rows` without and with a stratified `share`: of every class the same fraction, at least one image on each side.

    The images are drawn in the order of their pixels' digests, so that the split is a function of the fingerprint and the
    seed: files that are renamed or moved, and archives of the same images, are split alike. Those of a streamed folder are
    drawn in the order of their ids' digests.

    Raises: UserError where a class has only one image.
    """
    generator = np.random.default_rng(seed)
    labels = store.labels[rows]
    classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=len(store.class_names)))[:-1])
    taken = []
    for name, places in zip(store.class_names, classes, strict=True):
        of_class = rows[places]
        if len(of_class) < 2:
            raise UserError(
                f"class '{safe_text(name)}' has {len(of_class)} image to split, expected at least 2", where, "add images to it"
            )
        number = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        drawn = generator.permutation(len(of_class))[:number]
        taken.append(of_class[np.argsort(store.order[of_class], kind="stable")][drawn])
    second = np.sort(np.concatenate(taken))
    is_second = np.zeros(len(store.labels), dtype=bool)
    is_second[second] = True
    return rows[~is_second[rows]], second


def statistics(packed: Packed, rows: Labels) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the channels over all pixels of these images, of values in 0 to 1."""
    pixels = len(rows) * packed.image_size[0] * packed.image_size[1]
    pieces = (rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE))
    total = sum((packed.sums[some].sum(axis=0) for some in pieces), start=np.zeros(6)) / pixels  # exact: whole numbers
    mean = total[:3] / 255
    std = np.sqrt(np.maximum(total[3:] / 255**2 - mean**2, _LEAST_STD**2))
    return _three(mean), _three(std)


def _three(values: np.ndarray[Any, Any]) -> Channels:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue
