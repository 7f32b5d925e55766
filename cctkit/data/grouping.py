"""Groups of images by a part of their path, such as one plant or one patient: a split made here keeps each in one part."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cctkit.config.group_by import FLAG, check_group_by
from cctkit.data.source import Labels
from cctkit.errors import UserError
from cctkit.text import counted, safe_text

GroupKeys = np.ndarray[Any, np.dtype[np.int64]]


def group_keys(ids: Sequence[str], labels: Labels, class_names: Sequence[str], group_by: str, where: str) -> GroupKeys:
    r"""The number of the group of each image, int64 (M,). Images of several classes may share a group.

    group_by: `2` groups by the first two folders inside of the class folder; a regular expression such as `plant\d+` by what it
    matches in the path, or by its groups if it has some.

    Raises: UserError if an image belongs to no group.
    """
    check_group_by(group_by)
    by_level = group_by.isdecimal()
    pattern = re.compile("" if by_level else group_by)
    numbers: dict[tuple[str, ...], int] = {}
    keys = np.zeros(len(ids), dtype=np.int64)
    without = []
    for i, (name, label) in enumerate(zip(ids, labels.tolist(), strict=True)):
        key = _folders(name, class_names[label], int(group_by)) if by_level else _matched(pattern, name)
        if key is None:
            without.append(name)
        else:
            keys[i] = numbers.setdefault(key, len(numbers))
    if without:
        what = f"no folder at level {group_by} inside of its class" if by_level else "no match in its path"
        raise UserError(f"{counted(len(without), 'image')} with {what}: {safe_text(without[0])}", f"{FLAG} in {where}")
    return keys


def _folders(name: str, class_name: str, level: int) -> tuple[str, ...] | None:
    """The first `level` folders inside of the class folder; None if there are fewer."""
    parts = name.split("/")
    inner = parts[parts.index(class_name) + 1 : -1] if class_name in parts[:-1] else []
    return tuple(inner[:level]) if len(inner) >= level else None


def _matched(pattern: re.Pattern[str], name: str) -> tuple[str, ...] | None:
    found = pattern.search(name)
    return None if found is None else tuple(each or "" for each in found.groups()) or (found.group(),)


def joined(keys: Sequence[GroupKeys]) -> GroupKeys:
    """The smallest groups (n,) that part no group of any of `keys`, each (n,)."""
    inverses = [np.unique(each, return_inverse=True)[1] for each in keys]
    groups = np.arange(len(inverses[0]), dtype=np.int64)
    while True:
        before = groups
        for inverse in inverses:
            least = np.full(inverse.max(initial=-1) + 1, len(groups), dtype=np.int64)
            np.minimum.at(least, inverse, groups)
            groups = least[inverse]
        if np.array_equal(groups, before):
            return groups
