"""What every format becomes before it is packed: images that can be read one by one, with class, role and id."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it, and of how much; it may raise to stop the work."""
Notify = Callable[[str], None]

Role = Literal["train", "val", "test", "all"]
ROLES: tuple[Role, ...] = ("train", "val", "test", "all")
"""The part that an image plays in its source; `all`: the split is still to be made."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """M images of one origin.

    key: names this very content, for the cache; place: the folder they come from, None for a named data set; labels int64
    and roles int8 (index into ROLES), both (M,); read(i): image i decoded, uint8 (height, width, 3).
    """

    name: str
    key: str
    place: str | None
    class_names: tuple[str, ...]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    roles: np.ndarray[Any, np.dtype[np.int8]]
    ids: list[str]
    read: Callable[[int], Pixels]
