"""The packed file: all images, decoded and resized once, in one memory-mapped safetensors file.

A data set's *fingerprint* is the SHA-256 of the sorted digests of its images. The digest of an image covers its role, class
name, height, width and RGB pixels before resizing. It does not depend on file names, lossless formats, order or location. The
role is that of the source: train, val or test, or `all` if the split is made here.
"""

import contextlib
import ctypes
import json
import mmap
import os
import sys
import zlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from cctkit.config.size import Size
from cctkit.data.copies import Digests
from cctkit.data.report.seen import Seen
from cctkit.data.source import ROLES, Labels, Roles
from cctkit.data.transfer import to_device
from cctkit.digests import check_digest
from cctkit.errors import DamagedError, UserError
from cctkit.runs.runfiles import in_utf8
from cctkit.text import safe_text

KEY = "cctkit.packed"
SCHEMA = 3
OLDEST_SCHEMA = 2
_CHECKED_AT_ONCE = 4096
DTYPES = {
    "labels": "int64",
    "id_offsets": "int64",
    "order": "int64",
    "pixel_digests": "int64",
    "sums": "float64",
    "checksums": "uint32",
    "roles": "int8",
    "ids": "uint8",
    "skipped": "uint8",
    "seen": "uint8",
}
"""Tensors other than the images, in file order: wide types first, so that each is aligned."""
SINCE = {"checksums": 3, "pixel_digests": 3, "seen": 3}
"""First schema version with this tensor, if not the oldest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """A memory-mapped packed file. checksums, pixel_digests and seen are None in files of earlier versions.

    images: uint8 (M, 3, H, W).
    labels, roles: (M,).
    sums: float64 (M, 6), per image: sums of each channel and of its squares, of values in 0 to 255.
    order: int64 (M,), first 8 bytes of each image's digest, by which splits are made.
    checksums: uint32 (M,), CRC-32 of each image's stored bytes.
    pixel_digests: int64 (M,), by which copies are found, see `pixel_digest`.
    id_offsets: int64 (M + 1,), bounds of each id in id_blob.
    seen: what only packing sees.
    file: the file's status when it was opened.
    is_cached: whether it is in the cache, so that it may be removed if it is damaged.
    """

    name: str
    class_names: tuple[str, ...]
    fingerprint: str
    image_size: Size
    resize_mode: Literal["crop", "squash"]
    images: torch.Tensor
    labels: Labels
    roles: Roles
    sums: np.ndarray[Any, np.dtype[np.float64]]
    order: np.ndarray[Any, np.dtype[np.int64]]
    checksums: np.ndarray[Any, np.dtype[np.uint32]] | None
    pixel_digests: Digests | None
    id_blob: np.ndarray[Any, np.dtype[np.uint8]]
    id_offsets: np.ndarray[Any, np.dtype[np.int64]]
    skipped: tuple[str, ...]
    seen: Seen | None
    path: Path
    file: os.stat_result
    is_cached: bool = False

    def take(self, rows: Labels) -> torch.Tensor:
        """These images: uint8 (b, 3, H, W), a copy, on the device where the images are.

        Raises: DamagedError if the bytes in the file are not those that were written.
        """
        if self.images.device.type != "cpu":
            return self.images.index_select(0, to_device(torch.from_numpy(rows), self.images.device))
        self._check_length()
        _prefetch(self.images, rows)
        images = self.images.index_select(0, torch.from_numpy(rows))
        self._check(images, rows)
        return images

    def on(self, device: str) -> "Packed":
        """Copy all images to `device`; they are checked now, and not again.

        Raises: DamagedError, as `take`.
        """
        self._check_length()
        for start in range(0, len(self.images), _CHECKED_AT_ONCE):
            rows = np.arange(start, min(start + _CHECKED_AT_ONCE, len(self.images)))
            self._check(self.images[start : start + _CHECKED_AT_ONCE], rows)
        return replace(self, images=self.images.to(device))

    def _check_length(self) -> None:
        """Raise if the file was truncated: reading past the end of a mapped file kills the process."""
        with contextlib.suppress(OSError):
            facts = os.stat(self.path)
            if facts.st_size != self.file.st_size and os.path.samestat(facts, self.file):
                raise self._damaged(f"the packed file has {facts.st_size:,} bytes, expected {self.file.st_size:,}")

    def _check(self, images: torch.Tensor, rows: Labels) -> None:
        """Compare images (b, 3, H, W) with their checksums: about 2 microseconds per image of 32 x 32."""
        if self.checksums is None:
            return
        found = np.fromiter(map(zlib.crc32, images.flatten(1).numpy()), dtype=np.uint32, count=len(rows))
        wrong = rows[found != self.checksums[rows]]
        if len(wrong):
            others = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
            raise self._damaged(f"the packed pixels of {safe_text(self.ids(wrong[:1])[0])}{others} are damaged")

    def _damaged(self, what: str) -> DamagedError:
        """Make the error for a damaged file; a cached file is removed."""
        where = safe_text(self.path)
        if not self.is_cached:
            return DamagedError(what, where, "make the file again: cctkit pack")
        with contextlib.suppress(FileNotFoundError):
            try:
                if os.path.samestat(os.stat(self.path), self.file):  # else another process was faster
                    self.path.unlink()
            except PermissionError:  # it belongs to another user, or on Windows is mapped
                return DamagedError(what, where, "remove the file")
        return DamagedError(what, where, "the file was removed; rerun the command to pack the images again", dropped=True)

    def ids(self, rows: Labels) -> list[str]:
        """The ids of some images."""
        return [
            self.id_blob[self.id_offsets[i] : self.id_offsets[i + 1]].tobytes().decode("utf-8", "surrogateescape") for i in rows
        ]


def open_packed(path: Path, *, is_cached: bool = False) -> Packed:
    """Memory-map a packed file and check everything but the images, which are checked when they are read.

    Raises: UserError if it is damaged or not a packed file.
    """
    try:
        facts = os.stat(path)
        with in_utf8(path) as readable, safe_open(readable, framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise ValueError("another program wrote it")
            header = json.loads(metadata[KEY])
            there = [name for name in DTYPES if header["schema_version"] >= SINCE.get(name, OLDEST_SCHEMA)]
            arrays = {name: file.get_tensor(name).numpy() for name in there}
            packed = _checked(header, file.get_tensor("images"), arrays, path, facts)
        if not check_digest(path, KEY, without="images") and "checksums" in there:
            raise ValueError("its header has no digest")
        return replace(packed, is_cached=is_cached)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"not a packed data set, or a damaged one: {safe_text(error)}",
            safe_text(path),
            "pass --dataset a folder, a name, or a file made by cctkit pack",
        ) from error


def _checked(
    header: dict[str, Any],
    images: torch.Tensor,
    arrays: dict[str, np.ndarray[Any, Any]],
    path: Path,
    facts: os.stat_result,
) -> Packed:
    """Check everything that later code relies on.

    Raises: ValueError, KeyError or TypeError.
    """
    if not OLDEST_SCHEMA <= header["schema_version"] <= SCHEMA:
        raise ValueError(f"its schema version is {header['schema_version']}, expected {OLDEST_SCHEMA} to {SCHEMA}")
    class_names, size = header["class_names"], tuple(header["image_size"])
    texts = [header["name"], header["fingerprint"], *class_names]
    if not all(isinstance(text, str) for text in texts) or len(set(class_names)) < len(class_names):
        raise ValueError("its names are not strings, or not distinct")
    if (
        header["resize_mode"] not in ("crop", "squash")
        or images.dtype != torch.uint8
        or images.shape != (len(images), 3, *size)
    ):
        raise ValueError("its images do not have the size that the header says")
    _check_arrays(arrays, len(images), len(class_names))
    skipped = arrays["skipped"].tobytes().decode()
    return Packed(
        name=header["name"],
        class_names=tuple(class_names),
        fingerprint=header["fingerprint"],
        image_size=(size[0], size[1]),
        resize_mode=header["resize_mode"],
        images=images,
        labels=arrays["labels"],
        roles=arrays["roles"],
        sums=arrays["sums"],
        order=arrays["order"],
        checksums=arrays.get("checksums"),
        pixel_digests=arrays.get("pixel_digests"),
        id_blob=arrays["ids"],
        id_offsets=arrays["id_offsets"],
        skipped=tuple(skipped.split("\n")) if skipped else (),
        seen=Seen.from_json(arrays["seen"].tobytes().decode()) if "seen" in arrays else None,
        path=path,
        file=facts,
    )


def _check_arrays(arrays: dict[str, np.ndarray[Any, Any]], number: int, num_classes: int) -> None:
    shapes = {"sums": (number, 6), "id_offsets": (number + 1,)}
    shapes |= dict.fromkeys(("labels", "roles", "order", "checksums", "pixel_digests"), (number,))
    if any(each.dtype != DTYPES[name] or each.shape != shapes.get(name, (each.size,)) for name, each in arrays.items()):
        raise ValueError("the shapes of its tensors do not match")
    labels, roles, offsets = arrays["labels"], arrays["roles"], arrays["id_offsets"]
    if number == 0 or labels.min() < 0 or labels.max() >= num_classes or roles.min() < 0 or roles.max() >= len(ROLES):
        raise ValueError("a label or role is out of range")
    if not any((roles == ROLES.index(role)).any() for role in ("train", "all")):
        raise ValueError("it has no images to train on")
    if offsets[0] != 0 or offsets[-1] != arrays["ids"].size or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("the offsets of its ids are wrong")
    if not np.isfinite(arrays["sums"]).all():
        raise ValueError("its statistics are not finite")


def _prefetch(images: torch.Tensor, rows: Labels) -> None:
    """Ask the kernel to read these rows of a mapped tensor ahead, all at once (Linux only).

    Otherwise each page that is not in memory is waited for, and 128 KB around it are read too. Reading 4,096 images of 3 KB
    from a file of 3 GB took 2.7 s without this and 0.2 s with it; it costs 7 ms if all pages are in memory.
    """
    advise = _madvise()
    if advise is None or images.device.type != "cpu" or len(rows) == 0:
        return
    row_bytes = images[0].nbytes
    first = images.data_ptr() + rows * row_bytes
    page = first & -mmap.PAGESIZE
    for start, length in zip(page.tolist(), (first + row_bytes - page).tolist(), strict=True):
        advise(start, length, mmap.MADV_WILLNEED)  # advice only: whether it is taken changes no pixel


@cache
def _madvise() -> Any:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
