"""The splits that are made here, and the statistics of a split, as functions of a data set and some of its rows."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.data.copies import Groups
from cctkit.data.packed.read import Packed
from cctkit.data.source import Labels
from cctkit.data.streamed import Streamed
from cctkit.errors import UserError
from cctkit.text import safe_text

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Channels = tuple[float, float, float]

BY_FILE, BY_PIXELS = 1, 2
"""The rules of a split: each file is drawn for itself, as all were at first; or all copies of an image go to one side."""

_LEAST_STD = 1 / 255  # of a channel that hardly varies: dividing by less would blow up its noise
_PIECE = 2**16  # images whose statistics are in memory at a time


def stratified_split(
    store: Packed | Streamed, rows: Labels, share: float, seed: tuple[int, int], where: str, *, rule: int
) -> tuple[Labels, Labels]:
    """`rows` without and with a stratified `share`: of every class the same fraction, at least one image on each side.

    The images are drawn in the order of their pixels' digests, so that the split is a function of the fingerprint and the
    seed: files that are renamed or moved, and archives of the same images, are split alike. Those of a streamed folder are
    drawn in the order of their ids' digests. By the rule BY_PIXELS all copies of an image, whatever their classes, come to
    one side: see `_draw_groups`. A class without copies is drawn as by BY_FILE.

    Raises: UserError where a class has only one image, or copies alone that cannot be on both sides.
    """
    generator = np.random.default_rng(seed)
    groups = Groups.among(rows, store.pixel_digests) if rule == BY_PIXELS and store.pixel_digests is not None else None
    labels = store.labels[rows]
    classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=len(store.class_names)))[:-1])
    is_second = np.zeros(len(store.labels), dtype=bool)
    copied: list[_Drawn] = []
    for name, places in zip(store.class_names, classes, strict=True):
        of_class = rows[places]
        if len(of_class) < 2:
            raise UserError(
                f"class '{safe_text(name)}' has {len(of_class)} image to split, expected at least 2", where, "add images to it"
            )
        number = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        drawn = generator.permutation(len(of_class))
        ordered = of_class[np.argsort(store.order[of_class], kind="stable")]
        of_groups = None if groups is None else groups.of_row[ordered]
        if of_groups is not None and of_groups.max() >= 0:
            label = int(store.labels[ordered[0]])
            copied.append(_Drawn.of(name, label, ordered, of_groups, drawn, number))
        else:
            is_second[ordered[drawn[:number]]] = True
    del labels, classes  # tens of megabytes for millions of images
    if groups is not None:
        _draw_groups(copied, groups, store.labels, is_second, where)
    return rows[~is_second[rows]], np.flatnonzero(is_second)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """A class in which images have copies: how many it has and how many to take, and what can be taken, in the order drawn.

    rows (u,): each image without a copy and the first image of each group; groups (u,): of these rows, -1 without a copy.
    """

    name: str
    label: int
    total: int
    number: int
    rows: np.ndarray[Any, np.dtype[np.int32]]
    groups: np.ndarray[Any, np.dtype[np.int32]]

    @classmethod
    def of(cls, name: str, label: int, ordered: Labels, of_groups: Any, drawn: Labels, number: int) -> "_Drawn":
        """ordered, of_groups (n,): its rows in the order of their digests, and their groups; drawn (n,): places in these."""
        copied = np.flatnonzero(of_groups >= 0)
        can_be_taken = of_groups < 0
        can_be_taken[copied[np.unique(of_groups[copied], return_index=True)[1]]] = True
        places = drawn[can_be_taken[drawn]]
        rows = ordered[places].astype(np.int32)
        return cls(name=name, label=label, total=len(ordered), number=number, rows=rows, groups=of_groups[places])


def _draw_groups(classes: list[_Drawn], groups: Groups, labels: Labels, is_second: Flags, where: str) -> None:
    """Draw the classes in which images have copies, the smallest first: others decide least for it.

    Each takes images, and groups of them, as they were drawn, while that brings it and the other classes of a group nearer
    to their numbers. No class is left without an image in the first part; one without any in the second, since others have
    decided about all of its images, takes the group that does least harm.

    Raises: UserError where that is not possible.
    """
    number = {each.label: each.number for each in classes}
    total = {each.label: each.total for each in classes}
    taken = dict.fromkeys(number, 0)
    decided = np.zeros(len(groups.starts) - 1, dtype=bool)

    def harm(group: int) -> float:
        """By how much the classes go further from their numbers, as a sum of squares, if this group is taken."""
        counts = Counter(labels[groups.members(group)].tolist())
        if any(taken[label] + count >= total[label] for label, count in counts.items()):
            return math.inf
        missing = {label: number[label] - taken[label] for label in counts}
        return sum((missing[label] - count) ** 2 - missing[label] ** 2 for label, count in counts.items())

    def take(rows: Labels) -> None:
        is_second[rows] = True
        for label in labels[rows].tolist():
            taken[label] += 1

    for each in sorted(classes, key=lambda each: (each.total, each.label)):
        for row, group in zip(each.rows, each.groups, strict=True):
            if taken[each.label] >= number[each.label]:
                break
            if group < 0:
                take(row[None])
            elif not decided[group] and harm(group) < 0:
                take(groups.members(group))
        decided[each.groups[each.groups >= 0]] = True
        if taken[each.label] == 0:  # then all of its images have copies: one without would have been taken
            best = min(each.groups.tolist(), key=harm)
            if harm(best) == math.inf:
                raise UserError(
                    f"class '{safe_text(each.name)}' cannot be split: its images are copies of one, or of other classes'",
                    where,
                    "add images to it, or make the split yourself: train/CLASS/* and test/CLASS/*",
                )
            take(groups.members(best))


def rule_of(dataset: Mapping[str, Any], where: str) -> int:
    """The rule by which a run has split its images, from what its files tell of the data set.

    Raises: UserError where it is none that this version knows.
    """
    rule = dataset.get("split_rule", BY_FILE)
    if type(rule) is not int or rule not in (BY_FILE, BY_PIXELS):
        raise UserError(f"the images were split by rule {safe_text(repr(rule), 40)}, this version knows 1 and 2", where)
    return rule


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
