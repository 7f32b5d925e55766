"""Look at the stored pixels of every image once: nearly uniform and grey images, and hashes for near copies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.data.check.finding import CheckFinding
from cctkit.data.check.near_copies import Hashes, dhashes
from cctkit.data.packed.read import Packed
from cctkit.data.source import Labels, Progress
from cctkit.text import counted, safe_text

_BLOCK_BYTES = 2**23
_UNIFORM = 4.0
"""Standard deviation of the pixel values, of 255, in every channel, below which an image is nearly uniform."""
_FEW, _MOST = 0.5, 0.8

Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pixels:
    """What the stored pixels of M images show.

    hashes: uint64 (M,), see `dhashes`.
    is_grey: whether red, green and blue are equal everywhere.
    is_uniform: whether the pixels hardly differ.
    """

    hashes: Hashes
    is_grey: Flags
    is_uniform: Flags


def look_at(store: Packed, progress: Progress) -> Pixels:
    """Read all stored images in blocks; progress: called for each, may raise to stop.

    Raises: DamagedError, as `Packed.take`.
    """
    number, height, width = len(store.labels), *store.image_size
    block = max(1, _BLOCK_BYTES // (3 * height * width))
    hashes, is_grey = np.zeros(number, dtype=np.uint64), np.zeros(number, dtype=bool)
    for start in range(0, number, block):
        progress("looking at pixels", start, number)
        rows = np.arange(start, min(start + block, number))
        images = store.take(rows).numpy()
        hashes[rows] = dhashes(images)
        is_grey[rows] = ((images[:, 0] == images[:, 1]) & (images[:, 1] == images[:, 2])).all(axis=(1, 2))
    means = store.sums / (height * width)
    variances = means[:, 3:] - means[:, :3] ** 2
    return Pixels(hashes=hashes, is_grey=is_grey, is_uniform=np.asarray(variances.max(axis=1) < _UNIFORM**2))


def pixel_findings(pixels: Pixels, ids: Sequence[str], labels: Labels, class_names: Sequence[str]) -> Iterator[CheckFinding]:
    """Nearly uniform images, and grey ones among images with colours."""
    if len(uniform := np.flatnonzero(pixels.is_uniform)):
        yield CheckFinding(
            kind="uniform",
            severity="warning",
            text=f"{counted(len(uniform), 'nearly uniform image')}",
            paths=tuple(ids[int(i)] for i in uniform),
            remedy="look at them, and remove those that show nothing of their class",
        )
    grey = np.flatnonzero(pixels.is_grey & ~pixels.is_uniform)
    if not 0 < len(grey) < len(ids):
        return
    totals = np.bincount(labels, minlength=len(class_names))
    shares = np.bincount(labels[grey], minlength=len(class_names)) / np.maximum(totals, 1)
    telling = [safe_text(class_names[int(i)], 40) for i in np.flatnonzero(shares >= _MOST)]
    tells = bool(telling) and len(grey) < _FEW * len(ids)
    classes = f"; nearly all of {', '.join(telling[:4])}{', ...' if len(telling) > 4 else ''}" if tells else ""
    yield CheckFinding(
        kind="grey",
        severity="warning" if tells else "note",
        text=f"{counted(len(grey), 'grey image')} of {len(ids):,}{classes}",
        paths=tuple(ids[int(i)] for i in grey),
        remedy="a model may learn grey instead of the class: mix both in every class, or make all images grey"
        if tells
        else "nothing is needed if every class has some",
    )
