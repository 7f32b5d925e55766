"""What every format becomes before it is packed: images that can be read one by one, with class, role and id."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from cctkit.data.report.findings import FaultsError, Finding, broken_images

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it, and of how much; it may raise to stop the work."""
Notify = Callable[[str], None]

Role = Literal["train", "val", "test", "all"]
ROLES: tuple[Role, ...] = ("train", "val", "test", "all")
"""The part that an image plays in its source; `all`: the split is still to be made."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Labels = np.ndarray[Any, np.dtype[np.int64]]
Roles = np.ndarray[Any, np.dtype[np.int8]]


class Ids(Protocol):
    """The ids of images, by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> str: ...


class CompactIds:
    """Ids, each in its own bytes and 8 more: as strings of a list, those of a million files are half a gigabyte."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def extend(self, ids: Iterable[str]) -> None:
        for name in ids:
            self._bytes += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int, /) -> str:
        return self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogateescape")


class DecodedImage(NamedTuple):
    """An image, and what its file had that the pixels do not show.

    pixels: uint8 (height, width, 3); peak: the largest value, where a pixel has more than 8 bits of grey; more_pages: there are
    further pages or frames, which are not read.
    """

    pixels: Pixels
    peak: int | None = None
    more_pages: bool = False


class BadImageError(Exception):
    """A file that cannot be used as an image; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """M images of one origin.

    place: the folder they come from, None for a named data set; labels and roles (index into ROLES), both (M,);
    read(i): image i decoded, or a BadImageError.
    """

    name: str
    place: str | None
    class_names: tuple[str, ...]
    labels: Labels
    roles: Roles
    ids: Ids
    read: Callable[[int], DecodedImage]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Origin:
    """Where images are, before any is read.

    address: names the place; key: names its content now, and changes with it; load: reads what `Source` needs; listing: of a
    folder, names the roles, classes, paths in it and bytes of its files, wherever it is; findings: what was found beside
    images, and faults: with one of them nothing can be trained; folders: each role and its folder, where it is a folder.
    """

    address: str
    key: str
    place: str | None
    load: Callable[[Progress], Source]
    listing: str | None = None
    findings: tuple[Finding, ...] = ()
    folders: tuple[tuple[Role, str], ...] = ()

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings with which nothing can be trained."""
        return tuple(finding for finding in self.findings if finding.level == "fault")


def check_broken(bad: Sequence[str], where: str, *, remedy: str) -> None:
    """Nothing where no image is bad; `bad` says which, and why.

    Raises: FaultsError naming the first of them.
    """
    if bad:
        raise FaultsError([broken_images(bad, level="fault", remedy=remedy)], where)


def digest_of(*facts: object) -> str:
    """A name for these facts, the same in every process."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def sorted_classes(names: tuple[str, ...], labels: Labels) -> tuple[tuple[str, ...], Labels]:
    """The class names in alphabetical order, as a folder's are, and the labels (M,) that then belong to them."""
    order = sorted(range(len(names)), key=names.__getitem__)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return tuple(names[i] for i in order), ranks[labels]
