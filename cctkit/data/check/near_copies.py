"""Find near copies of images, such as re-encoded or resized ones: a 64-bit dHash, then a comparison of the pixels."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cctkit.data.source import Labels, Pixels

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Pairs = np.ndarray[Any, np.dtype[np.int64]]

MOST_BITS = 7
"""Bits in which the hashes of near copies may differ."""
LEAST_AGREEMENT = 0.95
"""See `agreement`. With both values, see docs/measurements.md for what is found and what is missed."""
_BANDS, _BAND_BITS = 4, 16
_ROWS, _COLUMNS = 8, 9
_SIDE = 16
_BLOCK = 2**22  # pairs of hashes in memory at a time
_COMPARED = 2048  # pairs of images, likewise


def dhashes(images: Pixels) -> Hashes:
    """The 64-bit difference hash of each image, uint8 (n, 3, H, W) -> uint64 (n,).

    Each bit says whether a cell of an 8 x 9 grey image is darker than the cell to its right.

    Source: Neal Krawetz, "Kind of Like That", The Hacker Factor Blog, 2013.
    """
    grey = np.tensordot(np.array([0.299, 0.587, 0.114], dtype=np.float32), images.astype(np.float32), axes=(0, 1))  # (n, H, W)
    cells = _averaged(grey, _ROWS, _COLUMNS)  # (n, 8, 9)
    bits = (cells[:, :, :-1] < cells[:, :, 1:]).reshape(len(images), 64)
    # A band of 16 bits takes every fourth: neighbouring bits are alike, and a plain background would make equal bands.
    spread = np.ascontiguousarray(bits.reshape(-1, _BAND_BITS, _BANDS).transpose(0, 2, 1)).reshape(len(images), 64)
    return np.packbits(spread, axis=1).view("<u8").ravel()


def agreement(images: Pixels, others: Pixels) -> np.ndarray[Any, np.dtype[np.float32]]:
    """How far pairs of images, uint8 (n, 3, H, W), agree at 16 x 16 pixels: 1 if they are equal, about 0 if unrelated.

    One minus the mean squared difference, divided by the sum of both variances (over pixels, within channels).
    """
    a, b = (_averaged(each.astype(np.float32), _SIDE, _SIDE) for each in (images, others))
    variance = sum(each.var(axis=(2, 3)).sum(axis=1) for each in (a, b))
    difference = ((a - b) ** 2).mean(axis=(2, 3)).sum(axis=1)
    return np.asarray(1 - difference / np.maximum(variance, 1e-6), dtype=np.float32)


def pairs_within(hashes: Hashes, most_bits: int) -> Iterator[Pairs]:
    """Pairs (m, 2) of positions whose hashes (n,) differ in at most `most_bits` bits, each once.

    Up to 3 bits every pair is found, because one of four bands of 16 bits is then equal. Up to 7 bits a band differs in at most
    one bit, and is found by flipping each bit of it in turn.
    """
    assert most_bits < 2 * _BANDS
    for band in range(_BANDS):
        keys = _band_of(hashes, band)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(2**_BAND_BITS + 1))
        flips = [0, *(1 << bit for bit in range(_BAND_BITS))] if most_bits >= _BANDS else [0]
        for flip in flips:
            for pairs in _joined(hashes, keys, order, starts, flip, most_bits):
                differing = hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]
                is_new = np.ones(len(pairs), dtype=bool)  # not found by an earlier band
                for earlier in range(band):
                    is_new &= np.bitwise_count(_band_of(differing, earlier)) > (len(flips) > 1)
                yield pairs[is_new]


def _band_of(hashes: Hashes, band: int) -> Labels:
    return ((hashes >> np.uint64(band * _BAND_BITS)) & np.uint64(2**_BAND_BITS - 1)).astype(np.int64)


def _joined(hashes: Hashes, keys: Labels, order: Labels, starts: Labels, flip: int, most_bits: int) -> Iterator[Pairs]:
    """Pairs of images whose bands differ by `flip`, the first with the smaller position."""
    partner = keys ^ flip
    counts = starts[partner + 1] - starts[partner]
    begin = 0
    ends = np.cumsum(counts)
    while begin < len(keys):
        limit = (ends[begin - 1] if begin else 0) + _BLOCK
        end = max(begin + 1, int(np.searchsorted(ends, limit, side="right")))
        some = counts[begin:end]
        first = np.repeat(np.arange(begin, end), some)
        within = np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
        second = order[np.repeat(starts[partner[begin:end]], some) + within]
        close = first < second
        first, second = first[close], second[close]
        close = np.bitwise_count(hashes[first] ^ hashes[second]) <= most_bits
        if close.any():
            yield np.stack([first[close], second[close]], axis=1)
        begin = end


def near_copies(
    rows: Labels, hashes: Hashes, take: Callable[[Labels], Pixels], progress: Callable[[], None]
) -> list[list[int]]:
    """Groups of `rows` (n,) that are near copies, each sorted. An image belongs to a group if it is a near copy of any member.

    hashes: (n,), those of `rows`.
    take: the images of some rows, uint8 (b, 3, H, W).
    progress: called now and then; may raise to stop.
    """
    root = np.arange(len(rows))  # of each position: the smallest of its group so far
    for pairs in pairs_within(hashes, MOST_BITS):
        progress()
        for start in range(0, len(pairs), _COMPARED):
            some = pairs[start : start + _COMPARED]
            some = some[root[some[:, 0]] != root[some[:, 1]]]
            agree = agreement(take(rows[some[:, 0]]), take(rows[some[:, 1]])) >= LEAST_AGREEMENT
            if agree.any():
                for first, second in some[agree].tolist():
                    _join(root, first, second)
                while (further := root[root] != root).any():
                    root[further] = root[root[further]]
    groups: dict[int, list[int]] = {}
    joined = np.bincount(root, minlength=len(rows)) > 1
    for position in np.flatnonzero(joined[root]).tolist():
        groups.setdefault(int(root[position]), []).append(int(rows[position]))
    return list(groups.values())


def _join(root: Labels, first: int, second: int) -> None:
    while root[first] != first:
        first = int(root[first])
    while root[second] != second:
        second = int(root[second])
    root[max(first, second)] = min(first, second)


def _averaged(images: np.ndarray[Any, np.dtype[np.float32]], rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Area means: float (..., H, W) -> (..., rows, columns)."""
    return np.asarray(_shares(rows, images.shape[-2]) @ images @ _shares(columns, images.shape[-1]).T)


def _shares(cells: int, side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Share of each of `side` pixels in each of `cells` cells of equal size: (cells, side), rows sum to 1."""
    edges = np.arange(cells + 1) * (side / cells)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.maximum(overlap, 0) * (cells / side), dtype=np.float32)
