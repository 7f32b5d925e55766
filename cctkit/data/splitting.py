"""Make stratified splits; compute mean and standard deviation of a split."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.catalog.datasets import Channels
from cctkit.data.copies import Groups
from cctkit.data.grouping import GroupKeys, joined
from cctkit.data.packed.read import Packed
from cctkit.data.source import Labels
from cctkit.data.streamed import Streamed
from cctkit.errors import UserError
from cctkit.text import safe_text

Flags = np.ndarray[Any, np.dtype[np.bool_]]

BY_FILE, BY_PIXELS = 1, 2
"""Rules of a split: files are drawn independently (as in earlier versions), or copies of an image stay in one split."""

_LEAST_STD = 1 / 255  # for channels that hardly vary: dividing by less would amplify noise
_PIECE = 2**16  # images whose statistics are in memory at a time


def stratified_split(
    store: Packed | Streamed,
    rows: Labels,
    share: float,
    seed: tuple[int, int],
    where: str,
    *,
    rule: int,
    group_of: GroupKeys | None = None,
) -> tuple[Labels, Labels]:
    """Split `rows` into two parts, the second with the fraction `share` of every class; each part has at least one image.

    Images are drawn in the order of their digests, so the split only depends on the fingerprint and the seed: renamed or
    moved files and archives of the same images are split alike. In a streamed folder the digests are those of the ids.

    rule: with BY_PIXELS, copies of an image stay in one part, whatever their classes (see `_draw_groups`); classes without
    copies are drawn as with BY_FILE.
    group_of: (M,), images with equal numbers stay in one part too; see `group_keys`.

    Raises: UserError if a class has only one image, or only copies that cannot be in both parts.
    """
    generator = np.random.default_rng(seed)
    groups = _groups(store, rows, rule, group_of)
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


def _groups(store: Packed | Streamed, rows: Labels, rule: int, group_of: GroupKeys | None) -> Groups | None:
    """What must stay in one part: copies, and images of one group; None if each image is by itself."""
    digests = store.pixel_digests if rule == BY_PIXELS else None
    if group_of is None:
        return None if digests is None else Groups.among(rows, digests)
    keys = np.zeros(len(store.labels), dtype=np.int64)
    keys[rows] = joined([each[rows] for each in (group_of, digests) if each is not None])
    return Groups.among(rows, keys)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """A class in which some images have copies, and its images in the order in which they are drawn.

    total: number of images.
    number: how many of them to draw.
    rows: (u,), each image without a copy, and the first image of each group.
    groups: (u,), the group of each of `rows`, -1 without a copy.
    """

    name: str
    label: int
    total: int
    number: int
    rows: np.ndarray[Any, np.dtype[np.int32]]
    groups: np.ndarray[Any, np.dtype[np.int32]]

    @classmethod
    def of(cls, name: str, label: int, ordered: Labels, of_groups: Any, drawn: Labels, number: int) -> "_Drawn":
        """Collect what can be drawn.

        ordered: (n,), the rows of the class in the order of their digests.
        of_groups: (n,), their groups.
        drawn: (n,), permutation of positions in `ordered`.
        """
        copied = np.flatnonzero(of_groups >= 0)
        can_be_taken = of_groups < 0
        can_be_taken[copied[np.unique(of_groups[copied], return_index=True)[1]]] = True
        places = drawn[can_be_taken[drawn]]
        rows = ordered[places].astype(np.int32)
        return cls(name=name, label=label, total=len(ordered), number=number, rows=rows, groups=of_groups[places])


def _draw_groups(classes: list[_Drawn], groups: Groups, labels: Labels, is_second: Flags, where: str) -> None:
    """Draw from the classes in which images have copies, starting with the smallest.

    A class draws images and groups in order, while that brings it and the other classes of a group closer to their numbers.
    Every class keeps an image in the first part. If a class has none in the second part, because other classes have decided
    about all of its groups, it draws the group that changes the numbers least.

    Raises: UserError if that is impossible.
    """
    number = {each.label: each.number for each in classes}
    total = {each.label: each.total for each in classes}
    taken = dict.fromkeys(number, 0)
    decided = np.zeros(len(groups.starts) - 1, dtype=bool)

    def harm(group: int) -> float:
        """Increase of the squared distance of all classes from their numbers if this group is drawn."""
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
        if taken[each.label] == 0:  # all of its images have copies: others would have been drawn
            best = min(each.groups.tolist(), key=harm)
            if harm(best) == math.inf:
                raise UserError(
                    f"class '{safe_text(each.name)}' cannot be split: its images are copies or groups, of other classes too",
                    where,
                    "add images to it, or split the folder yourself: train/CLASS/* and test/CLASS/*",
                )
            take(groups.members(best))


def rule_of(dataset: Mapping[str, Any], where: str) -> int:
    """The rule by which a run split its data set.

    dataset: what the run's files say about the data set.

    Raises: UserError if this version does not support the rule.
    """
    rule = dataset.get("split_rule", BY_FILE)
    if type(rule) is not int or rule not in (BY_FILE, BY_PIXELS):
        raise UserError(f"the images were split by rule {safe_text(repr(rule), 40)}, this version supports 1 and 2", where)
    return rule


def statistics(packed: Packed, rows: Labels) -> tuple[Channels, Channels]:
    """Per-channel mean and standard deviation of these images, of values in 0 to 1."""
    pixels = len(rows) * packed.image_size[0] * packed.image_size[1]
    pieces = (rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE))
    total = sum((packed.sums[some].sum(axis=0) for some in pieces), start=np.zeros(6)) / pixels  # exact: integers
    mean = total[:3] / 255
    std = np.sqrt(np.maximum(total[3:] / 255**2 - mean**2, _LEAST_STD**2))
    return _three(mean), _three(std)


def _three(values: np.ndarray[Any, Any]) -> Channels:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue
