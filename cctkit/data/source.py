"""Images of any origin, read one by one, with class, role and id."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from cctkit.data.report.findings import FaultsError, Finding, broken_images

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total); may raise to stop the work."""
Notify = Callable[[str], None]

Role = Literal["train", "val", "test", "all"]
ROLES: tuple[Role, ...] = ("train", "val", "test", "all")
"""The split of an image in its source; `all`: not split yet."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Labels = np.ndarray[Any, np.dtype[np.int64]]
Roles = np.ndarray[Any, np.dtype[np.int8]]


class CompactIds(Sequence[str]):
    """Ids in one byte string, with 8 bytes of overhead each: a list of a million strings takes half a gigabyte."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def extend(self, ids: Iterable[str]) -> None:
        for name in ids:
            self._bytes += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: Any) -> Any:
        return self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogateescape")


class DecodedImage(NamedTuple):
    """A decoded image and what its pixels do not show.

    pixels: uint8 (height, width, 3).
    peak: the largest value of an image with more than 8 bits of gray, else None.
    more_pages: whether the file has further pages or frames, which are not read.
    """

    pixels: Pixels
    peak: int | None = None
    more_pages: bool = False


class BadImageError(Exception):
    """A file cannot be used as an image; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """M images of one origin.

    place: the folder of the images; None for a named data set.
    labels: int64 (M,).
    roles: int8 (M,), index into ROLES.
    read: decodes image i, or raises BadImageError.
    """

    name: str
    place: str | None
    class_names: tuple[str, ...]
    labels: Labels
    roles: Roles
    ids: Sequence[str]
    read: Callable[[int], DecodedImage]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Origin:
    """Where images come from, before any is read.

    address: identifies the location.
    key: identifies the current content; changes with it.
    load: reads what `Source` needs.
    listing: for a folder, digest of the roles, classes, relative paths and file sizes, independent of its location.
    findings: what was found besides images, including faults, which prevent training.
    folders: for a folder, each role and its subfolder.
    """

    address: str
    key: str
    place: str | None
    load: Callable[[Progress], Source]
    listing: str | None = None
    findings: tuple[Finding, ...] = ()
    folders: tuple[tuple[Role, str], ...] = ()


def check_broken(bad: Sequence[str], where: str, *, remedy: str) -> None:
    """Raise if there are bad images; `bad` lists them with their reasons.

    Raises: FaultsError naming the first ones.
    """
    if bad:
        raise FaultsError([broken_images(bad, level="fault", remedy=remedy)], where)


def digest_of(*facts: object) -> str:
    """SHA-256 of these values, the same in every process."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def sorted_classes(names: tuple[str, ...], labels: Labels) -> tuple[tuple[str, ...], Labels]:
    """Class names in alphabetical order, like a folder's, and the labels (M,) renumbered to match."""
    order = sorted(range(len(names)), key=names.__getitem__)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return tuple(names[i] for i in order), ranks[labels]
