"""The packed file: every image decoded once, at one size, in one safetensors file that is then mapped into memory."""

import hashlib
import json
import math
import os
import struct
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from cctkit.config import Size
from cctkit.data.folder import BadImageError
from cctkit.data.source import ROLES, Pixels, Progress, Source
from cctkit.errors import UserError
from cctkit.rundir import full_disk_named, sync_directory
from cctkit.text import safe_text

_SCHEMA = 1
_KEY = "cctkit.packed"
_IN_FLIGHT = 512
_BAD_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """A packed file, mapped.

    images: uint8 (M, 3, H, W); labels int64, roles int8 (M,); sums: float64 (M, 6), of each image's channels and of
    their squares, values in 0 to 255.
    """

    path: Path
    images: torch.Tensor
    labels: np.ndarray[Any, np.dtype[np.int64]]
    roles: np.ndarray[Any, np.dtype[np.int8]]
    sums: np.ndarray[Any, np.dtype[np.float64]]
    header: dict[str, Any]

    def ids(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[str]:
        """The ids of some images, read from the file."""
        with safe_open(self.path, framework="numpy") as file:
            blob, offsets = file.get_tensor("ids").tobytes(), file.get_tensor("id_offsets")
        return [blob[offsets[i] : offsets[i + 1]].decode("utf-8", "surrogateescape") for i in rows]

    def skipped(self) -> tuple[str, ...]:
        """The files that were left out because they are broken."""
        with safe_open(self.path, framework="numpy") as file:
            text = file.get_tensor("skipped").tobytes().decode()
        return tuple(text.split("\n")) if text else ()


def open_packed(path: Path) -> Packed:
    """Map a packed file; its images stay on the disk until they are used.

    Raises: UserError where it is damaged, or no packed file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            if header["schema_version"] != _SCHEMA:
                raise ValueError(f"it is of version {header['schema_version']}, expected {_SCHEMA}")
            packed = Packed(
                path=path,
                images=file.get_tensor("images"),
                labels=file.get_tensor("labels").numpy(),
                roles=file.get_tensor("roles").numpy(),
                sums=file.get_tensor("sums").numpy(),
                header=header,
            )
            _check(packed)
            return packed
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"this is no packed data set, or a damaged one: {safe_text(error)}", safe_text(path)) from error


def _check(packed: Packed) -> None:
    number, classes = len(packed.labels), len(packed.header["class_names"])
    shapes = (tuple(packed.images.shape[:2]), packed.roles.shape, packed.sums.shape)
    if shapes != ((number, 3), (number,), (number, 6)) or packed.images.dtype != torch.uint8 or number == 0:
        raise ValueError("its tensors do not fit each other")
    if packed.labels.min() < 0 or packed.labels.max() >= classes or packed.roles.min() < 0 or packed.roles.max() >= len(ROLES):
        raise ValueError("a label or role is out of range")


def pack(source: Source, path: Path, *, size: Size, mode: str, skip_bad: bool, progress: Progress) -> None:
    """Decode every image of `source`, bring it to `size`, and write the packed file whole or not at all.

    Raises: UserError naming broken images, unless `skip_bad`; ResourceError where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    beside = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with full_disk_named(path):
            with open(beside, "wb") as file:
                _write(file, source, size=size, mode=mode, skip_bad=skip_bad, progress=progress)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Temporary files of packers that are no more."""
    for path in folder.glob(".*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            path.unlink(missing_ok=True)


def _write(file: BinaryIO, source: Source, *, size: Size, mode: str, skip_bad: bool, progress: Progress) -> None:
    """Images first, one after the other; then the small tensors; then the header, into the room that was kept for it."""
    header: dict[str, Any] = {
        "schema_version": _SCHEMA,
        "name": source.name,
        "class_names": source.class_names,
        "image_size": size,
        "resize_mode": mode,
        "fingerprint": "sha256:" + "0" * 64,
    }
    room = -(-(len(json.dumps({_KEY: json.dumps(header)})) + 2048) // 64) * 64 - 8
    file.seek(8 + room)
    digests: list[bytes] = []
    sums: list[np.ndarray[Any, Any]] = []
    kept: list[int] = []
    bad: list[str] = []
    for i, found in _decoded(source, size, mode, progress):
        if isinstance(found, BadImageError):
            bad.append(f"{source.ids[i]}: {found}")
            continue
        pixels, digest, sums_of_image = found
        file.write(pixels)
        digests.append(digest)
        sums.append(sums_of_image)
        kept.append(i)
    if bad and not skip_bad:
        named = "; ".join(safe_text(text) for text in bad[:_BAD_NAMED])
        raise UserError(
            f"{len(bad)} broken image{'s' if len(bad) > 1 else ''}: {named}{'; ...' if len(bad) > _BAD_NAMED else ''}",
            safe_text(source.place or source.name),
            "mend or remove them, or leave them out with --skip-bad",
        )
    if not kept:
        raise UserError("no image can be read", safe_text(source.place or source.name))
    header["fingerprint"] = "sha256:" + hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    ids = [source.ids[i].encode("utf-8", "surrogateescape") for i in kept]
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "padding": np.zeros(-file.tell() % 8, dtype=np.uint8),
        "labels": source.labels[kept],
        "id_offsets": np.cumsum([0, *map(len, ids)], dtype=np.int64),
        "sums": np.stack(sums),
        "roles": source.roles[kept],
        "ids": np.frombuffer(b"".join(ids), dtype=np.uint8),
        "skipped": np.frombuffer("\n".join(map(safe_text, bad)).encode(), dtype=np.uint8),
    }
    entries = {"images": _entry("U8", (len(kept), 3, *size), 0)}
    start = len(kept) * 3 * size[0] * size[1]
    for name, array in tensors.items():
        entries[name] = _entry(
            {"uint8": "U8", "int8": "I8", "int64": "I64", "float64": "F64"}[array.dtype.name], array.shape, start
        )
        start += array.nbytes
        file.write(array.tobytes())
    text = json.dumps({"__metadata__": {_KEY: json.dumps(header)}, **entries}).encode()
    file.seek(0)
    file.write(struct.pack("<Q", room) + text.ljust(room))


def _entry(dtype: str, shape: tuple[int, ...], start: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + math.prod(shape) * int(dtype[1:]) // 8]}


_Image = tuple[bytes, bytes, np.ndarray[Any, Any]]  # pixels (3, H, W), digest, sums


def _decoded(source: Source, size: Size, mode: str, progress: Progress) -> Iterator[tuple[int, _Image | BadImageError]]:
    """Every image, in order, decoded on all cores a few hundred at a time."""

    def one(i: int) -> _Image | BadImageError:
        try:
            pixels = source.read(i)
        except BadImageError as error:
            return error
        role, name = ROLES[source.roles[i]], source.class_names[source.labels[i]]
        facts = json.dumps([role, name, pixels.shape[:2]]).encode()
        digest = hashlib.sha256(facts + pixels.tobytes()).digest()
        small = np.ascontiguousarray(resized(pixels, size, mode).transpose(2, 0, 1))  # (3, H, W)
        wide = small.reshape(3, -1).astype(np.float64)
        return small.tobytes(), digest, np.concatenate([wide.sum(1), (wide * wide).sum(1)])

    total = len(source.ids)
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, total, _IN_FLIGHT):
            progress("reading images", start, total)
            rows = range(start, min(start + _IN_FLIGHT, total))
            yield from zip(rows, pool.map(one, rows), strict=True)


def resized(pixels: Pixels, size: Size, mode: str) -> Pixels:
    """An image at (height, width): as it is, squashed, or scaled by its short side and cropped. Bilinear, antialiased."""
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels)
    box = None
    if mode == "crop":
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
