"""Find copies of images, exact ones by their pixels and near ones, and say where they do harm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.data.check.finding import CheckFinding, Severity
from cctkit.data.check.near_copies import near_copies
from cctkit.data.check.pixels import Pixels
from cctkit.data.copies import Groups
from cctkit.data.grouping import GroupKeys
from cctkit.data.packed.read import Packed
from cctkit.data.source import Progress
from cctkit.text import counted

Parts = np.ndarray[Any, np.dtype[np.int8]]

_KEEP = "keep one image of each line"
# Kind of place -> severity of exact copies, of near copies, text, remedy.
_PLACES: dict[str, tuple[Severity, Severity, str, str]] = {
    "across_splits": (
        "error",
        "warning",
        "in more than one split: the accuracy is measured on images that were trained on",
        _KEEP,
    ),
    "across_classes": ("warning", "warning", "in more than one class", "keep each image in the class that it shows"),
    "in_class": ("note", "note", "within a class and split: they count more than once", f"{_KEEP}, or leave them"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Where each of M images is.

    parts: int8 (M,), number of its split, the one it comes with or the one made here.
    split_made: whether the split is made here.
    """

    store: Packed
    ids: Sequence[str]
    parts: Parts
    split_made: bool

    def of(self, rows: Sequence[int]) -> str:
        """Which of `_PLACES` these copies are in."""
        if len({int(self.parts[row]) for row in rows}) > 1:
            return "across_splits"
        return "across_classes" if len({int(self.store.labels[row]) for row in rows}) > 1 else "in_class"


def copies(places: Places, pixels: Pixels, progress: Progress) -> Iterator[CheckFinding]:
    """Exact copies, then near copies; a group is named once, at the worst place that it is in."""
    store = places.store
    digests = store.pixel_digests
    rows = np.arange(len(store.labels))
    if digests is not None and (exact := Groups.among(rows, digests)) is not None:
        groups = [exact.members(i).tolist() for i in range(len(exact.starts) - 1)]
        yield from _findings(places, "copies", "identical images", groups)
        firsts = np.unique(digests, return_index=True)[1]
        is_first = np.zeros(len(rows), dtype=bool)
        is_first[firsts] = True
        rows = rows[is_first]
    rows = rows[~pixels.is_uniform[rows]]  # blank images are alike without being copies
    near = near_copies(
        rows,
        pixels.hashes[rows],
        lambda some: store.take(some).numpy(),
        lambda: progress("looking for near copies", 0, 1),
    )
    yield from _findings(places, "near_copies", "nearly identical images", near)


def parted_groups(keys: GroupKeys, parts: Parts, ids: Sequence[str]) -> Iterator[CheckFinding]:
    """Groups of `--group-by` with images in several splits; keys, parts: (M,), the group and split of each image."""
    order = np.argsort(keys, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(keys))[:-1])
    parted = [tuple(ids[int(row)] for row in group) for group in groups if len(set(parts[group].tolist())) > 1]
    if parted:
        yield CheckFinding.of_groups(
            "groups_across_splits",
            "error",
            f"{counted(len(parted), 'group')} of --group-by in more than one split: the test images are not independent",
            parted,
            "move each group to one split, or give the images without splits, and train with --group-by",
        )


def _findings(places: Places, kind: str, noun: str, groups: Sequence[Sequence[int]]) -> Iterator[CheckFinding]:
    by_place: dict[str, list[Sequence[int]]] = {name: [] for name in _PLACES}
    for group in groups:
        by_place[places.of(group)].append(group)
    for name, found in by_place.items():
        if not found:
            continue
        exact, near, where, remedy = _PLACES[name]
        text = f"{counted(len(found), 'group')} of {noun} {where}"
        if name == "across_splits":
            if other := sum(len({int(places.store.labels[row]) for row in group}) > 1 for group in found):
                text += f"; {other:,} of them in more than one class"
            if places.split_made:
                remedy = "remove copies, or split the folder yourself: train/CLASS/* and test/CLASS/*"
        yield CheckFinding.of_groups(
            f"{kind}_{name}",
            near if kind == "near_copies" else exact,
            text,
            [tuple(places.ids[row] for row in group) for group in found],
            remedy if kind == "copies" else f"look at them; {remedy}",
        )
