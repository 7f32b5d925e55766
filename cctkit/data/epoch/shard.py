"""What one of several ranks does of a batch: the batch stays what it is for one, only who computes it changes."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def share_of_batch(start: int, stop: int, *, rank: int, ranks: int) -> tuple[Array, float]:
    """The positions of a batch (`start` to `stop`) that `rank` of `ranks` computes, ascending, and what their mean counts.

    Images are dealt in pairs, each with the one at the same distance from the batch's other end: that is the partner with
    which mixup and cutmix mix it, so no rank needs another's images. The shares differ by two images at most.

    The mean over ranks of each one's mean times its count is the mean over the batch. A rank without a share in a small
    batch takes the first image with a count of 0: it has to walk the model with the others.
    """
    size = stop - start
    pairs = (size + 1) // 2  # from the middle of the batch outwards; that of an odd one is its own partner
    first = rank * (pairs // ranks) + min(rank, pairs % ranks)
    last = first + pairs // ranks + (rank < pairs % ranks)
    if first == last:
        return np.array([start]), 0.0
    front = np.arange(pairs - last, pairs - first)
    rows = np.union1d(front, size - 1 - front)
    return start + rows, ranks * len(rows) / size
