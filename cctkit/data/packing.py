"""Making a packed file: every image decoded on all cores, written as it comes, the file whole or not there."""

import contextlib
import hashlib
import json
import math
import os
import secrets
import struct
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cctkit.config import Size
from cctkit.data.images import resized, stored_size
from cctkit.data.packed import DTYPES, KEY, SCHEMA, Packed, open_packed
from cctkit.data.source import ROLES, BadImageError, Pixels, Progress, Source
from cctkit.errors import UserError
from cctkit.rundir import full_disk_named, sync_directory
from cctkit.text import safe_text

_READING = "reading images"
_TRIED = 16
_QUICK_S = 1e-3  # an image: below that, threads lose more by waiting for each other than they win
_CHUNK = 64
_CHUNKS_IN_FLIGHT = 4
_POLL_S = 0.1
_BAD_NAMED = 3
_ALIGNMENT = 64
_CODES = {"uint8": "U8", "int8": "I8", "int64": "I64", "float64": "F64"}

_Image = tuple[bytes, bytes, np.ndarray[Any, Any]]  # pixels (3, H, W), digest, sums (6,)


def pack(source: Source, path: Path, *, size: Size, mode: str, skip_bad: bool, progress: Progress) -> Packed:
    """Decode every image of `source`, bring it to `size`, write the packed file, and map it.

    Where all have one size, smaller and of the same shape, they stay as they are (`stored_size`): 50,000 images of 32 x 32
    for a model of 224 x 224 would take 7.5 GB.

    Raises: UserError naming broken images, unless `skip_bad`; ResourceError where the disk is full.
    """
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with _beside(path) as (beside, file):
            _write_small(file, source, size=size, mode=mode, skip_bad=skip_bad, progress=progress)
            file.flush()
            os.fsync(file.fileno())
            packed = open_packed(beside)  # before it is renamed: nobody can remove it in between
            os.replace(beside, path)
        sync_directory(path.parent)
    return replace(packed, path=path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, locked while this process lives, and gone afterwards unless it was renamed."""
    while True:
        beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
        with open(beside, "xb") as file:
            try:
                if _lock(file) and beside.exists():  # else `_remove_stale` of another process was between
                    yield beside, file
                    return
            finally:
                beside.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> bool:
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _remove_stale(folder: Path) -> None:
    """Files of packers that were killed: those that nobody holds."""
    if sys.platform == "win32":
        return
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if _lock(file):
                path.unlink()


class _OtherSizeError(Exception):
    """An image has another size than the first."""


def _write_small(file: BinaryIO, source: Source, *, size: Size, mode: str, skip_bad: bool, progress: Progress) -> None:
    """As the images are, where all are like the first and it is small; else, as shows at the first other one, at `size`."""
    native = _first_size(source)

    def read(i: int) -> Pixels:
        pixels = source.read(i)
        if pixels.shape[:2] != native:
            raise _OtherSizeError
        return pixels

    if native is not None and (stored := stored_size(native, size)) != size:
        with contextlib.suppress(_OtherSizeError):
            _write(file, replace(source, read=read), size=stored, mode=mode, skip_bad=skip_bad, progress=progress)
            return
        file.seek(0)
        file.truncate()
    _write(file, source, size=size, mode=mode, skip_bad=skip_bad, progress=progress)


def _first_size(source: Source) -> Size | None:
    """The size of the first image that can be read, if it is among the first few."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(min(_TRIED, len(source.ids))):
            with contextlib.suppress(BadImageError):
                height, width = source.read(i).shape[:2]
                return height, width
    return None


def _write(file: BinaryIO, source: Source, *, size: Size, mode: str, skip_bad: bool, progress: Progress) -> None:
    """Images first, one after the other; then the small tensors; then the header, into the room that was kept for it."""
    header: dict[str, Any] = {
        "schema_version": SCHEMA,
        "name": source.name,
        "class_names": source.class_names,
        "image_size": size,
        "resize_mode": mode,
        "fingerprint": "sha256:" + "0" * 64,
    }
    room = len(json.dumps({KEY: json.dumps(header)})) + 2048
    room += -(8 + room) % _ALIGNMENT
    file.seek(8 + room)
    digests: list[bytes] = []
    sums: list[np.ndarray[Any, Any]] = []
    kept: list[int] = []
    bad: list[str] = []
    for i, found in enumerate(_decoded(source, size, mode, progress)):
        if isinstance(found, BadImageError):
            bad.append(f"{safe_text(source.ids[i])}: {safe_text(found)}")
            continue
        file.write(found[0])
        digests.append(found[1])
        sums.append(found[2])
        kept.append(i)
    _check_broken(bad, source, kept=len(kept), skip_bad=skip_bad)
    header["fingerprint"] = "sha256:" + hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    ids = [source.ids[i].encode("utf-8", "surrogateescape") for i in kept]
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "labels": source.labels[kept],
        "roles": source.roles[kept],
        "sums": np.stack(sums),
        "order": np.frombuffer(b"".join(digest[:8] for digest in digests), dtype="<i8"),
        "ids": np.frombuffer(b"".join(ids), dtype=np.uint8),
        "id_offsets": np.cumsum([0, *map(len, ids)], dtype=np.int64),
        "skipped": np.frombuffer("\n".join(bad).encode(), dtype=np.uint8),
        "padding": np.zeros(-file.tell() % 8, dtype=np.uint8),
    }
    entries = {"images": _entry("U8", (len(kept), 3, *size), 0)}
    start = len(kept) * 3 * size[0] * size[1]
    for name in ("padding", *DTYPES):
        array = tensors[name]
        entries[name] = _entry(_CODES[array.dtype.name], array.shape, start)
        start += array.nbytes
        file.write(array.tobytes())
    text = json.dumps({"__metadata__": {KEY: json.dumps(header)}, **entries}).encode()
    file.seek(0)
    file.write(struct.pack("<Q", room) + text.ljust(room))


def _entry(code: str, shape: tuple[int, ...], start: int) -> dict[str, Any]:
    return {"dtype": code, "shape": shape, "data_offsets": [start, start + math.prod(shape) * int(code[1:]) // 8]}


def _check_broken(bad: list[str], source: Source, *, kept: int, skip_bad: bool) -> None:
    where = safe_text(source.place or source.name)
    if bad and not skip_bad:
        named = "; ".join(bad[:_BAD_NAMED]) + ("; ..." if len(bad) > _BAD_NAMED else "")
        raise UserError(
            f"{len(bad)} broken image{'s' if len(bad) > 1 else ''}: {named}",
            where,
            "mend or remove what is broken, or leave it out with --skip-bad",
        )
    if not kept:
        raise UserError("no image can be read", where)


def _decoded(source: Source, size: Size, mode: str, progress: Progress) -> Iterator[_Image | BadImageError]:
    """Every image, in order: one by one while that is quick, then on all cores. `progress` can stop within one image."""
    total, i, next_s = len(source.ids), 0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata
        while i < total:
            start, start_s = i, time.perf_counter()
            for i in range(start, min(start + _TRIED, total)):
                if time.perf_counter() >= next_s:
                    progress(_READING, i, total)
                    next_s = time.perf_counter() + _POLL_S
                yield _one(source, i, size, mode)
            i += 1
            if time.perf_counter() - start_s > _QUICK_S * (i - start):
                break
        yield from _ahead(source, size, mode, range(i, total), progress)


def _ahead(source: Source, size: Size, mode: str, rows: range, progress: Progress) -> Iterator[_Image | BadImageError]:
    """The images of these rows, in order, decoded ahead on all cores. `progress` is called ten times a second at least."""
    workers = os.cpu_count() or 1
    stopped = threading.Event()

    def chunk(rows: range) -> list[_Image | BadImageError]:
        return [_one(source, i, size, mode) for i in rows if not stopped.is_set()]

    waiting: deque[Future[list[_Image | BadImageError]]] = deque()
    left, done = rows, rows.start
    with ThreadPoolExecutor(workers) as pool:
        try:
            while left or waiting:
                while left and len(waiting) < _CHUNKS_IN_FLIGHT * workers:
                    waiting.append(pool.submit(chunk, left[:_CHUNK]))
                    left = left[_CHUNK:]
                progress(_READING, done, rows.stop)
                with contextlib.suppress(NotYet):
                    images = waiting[0].result(timeout=_POLL_S)
                    waiting.popleft()
                    done += len(images)
                    yield from images
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _one(source: Source, i: int, size: Size, mode: str) -> _Image | BadImageError:
    try:
        pixels = np.ascontiguousarray(source.read(i))
    except BadImageError as error:
        return error
    digest = hashlib.sha256(
        json.dumps([ROLES[source.roles[i]], source.class_names[source.labels[i]], pixels.shape[:2]]).encode()
    )
    digest.update(pixels.data)
    small = np.ascontiguousarray(resized(pixels, size, mode).transpose(2, 0, 1))  # (3, H, W)
    wide = small.reshape(3, -1).astype(np.float64)
    return small.tobytes(), digest.digest(), np.concatenate([wide.sum(1), (wide * wide).sum(1)])
