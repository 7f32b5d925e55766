"""Find copies of an image, whatever their class, name or format, by a digest of the pixels."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.data.source import Labels, Pixels

Digests = np.ndarray[Any, np.dtype[np.int64]]


def pixel_digest(pixels: Pixels) -> int:
    """First 8 bytes of the SHA-256 of height, width and RGB values of uint8 (height, width, 3), before resizing.

    The probability that any two of two million different images share a digest is 1e-7.
    """
    digest = hashlib.sha256(json.dumps(pixels.shape[:2]).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


def contains(known: Digests, digests: Digests) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each of `digests` (n,) is in `known`, which is sorted."""
    if len(known) == 0:
        return np.zeros(len(digests), dtype=bool)
    places = np.searchsorted(known, digests)
    places[places == len(known)] = 0
    return np.asarray(known[places] == digests)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Groups of identical images.

    rows: (m,), the images of all groups, concatenated.
    starts: (g + 1,), where each group begins in `rows`.
    of_row: int32 (M,), the group of each image of the data set, -1 without a copy.
    """

    rows: Labels
    starts: Labels
    of_row: np.ndarray[Any, np.dtype[np.int32]]

    @classmethod
    def among(cls, rows: Labels, digests: Digests) -> "Groups | None":
        """Group these rows of a data set with `digests` (M,); None if no image has a copy."""
        of_rows = digests[rows]
        ordered = np.sort(of_rows)
        known = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])  # those that occur more than once
        del ordered
        if len(known) == 0:
            return None
        copies = rows[contains(known, of_rows)]
        groups = np.searchsorted(known, digests[copies])
        of_row = np.full(len(digests), -1, dtype=np.int32)
        of_row[copies] = groups
        starts = np.concatenate([[0], np.cumsum(np.bincount(groups))])
        return cls(rows=copies[np.argsort(groups, kind="stable")], starts=starts, of_row=of_row)

    def members(self, group: int) -> Labels:
        """The rows of the images of a group, ascending."""
        return self.rows[self.starts[group] : self.starts[group + 1]]
