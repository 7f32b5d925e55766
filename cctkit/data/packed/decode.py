"""Decode every image of a source in order: in this process at first, then on all cores."""

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.data.copies import pixel_digest
from cctkit.data.preprocess import Preprocess, strict_pillow
from cctkit.data.source import ROLES, BadImageError, Progress, Source
from cctkit.data.workers import available_cores, start_worker
from cctkit.errors import ResourceError

_READING = "reading images"
_ALONE_S = 0.5  # before other processes are started, which takes time
_CHUNK = 64
_CHUNK_BYTES = 2**21
_CHUNKS_IN_FLIGHT = 3
_POLL_S = 0.1

ROW = np.dtype(
    [
        ("sums", "<f8", 6),
        ("digest", "S32"),
        ("pixel_digest", "<i8"),
        ("checksum", "<u4"),
        ("size", "<u4", 2),
        ("peak", "<i4"),
        ("more_pages", "?"),
        ("state", "u1"),
        ("row_checksum", "<u4"),
    ]
)
"""What is stored per image beside its pixels; see `read.Packed`. A bad image has only its state.

size: height and width before resizing.
peak, more_pages: see `DecodedImage`; NO_PEAK for None.
row_checksum: CRC-32 of the rest of the row, used by the journal.
"""
GOOD, BAD = 1, 2
NO_PEAK = -1

Rows = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedChunk:
    """Consecutive images of a source, decoded and resized.

    rows: (n,) of ROW.
    pixels: the bytes of each good image, uint8 (3, H, W).
    bad: the reason for each bad image, by its number in the source.
    """

    rows: Rows
    pixels: bytes
    bad: dict[int, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    source: Source
    preprocess: Preprocess

    def images(self, numbers: range, goes_on: Callable[[int], bool]) -> DecodedChunk:
        """Decode the images of these numbers, until `goes_on(number)` is false."""
        rows, pixels, bad = np.zeros(len(numbers), dtype=ROW), [], {}
        for row, i in zip(rows, numbers, strict=True):
            if not goes_on(i):
                break
            try:
                pixels.append(self._one(i, row))
            except BadImageError as error:
                row["state"] = BAD
                bad[i] = str(error)
        return DecodedChunk(rows=rows, pixels=b"".join(pixels), bad=bad)

    def _one(self, i: int, row: Any) -> bytes:
        image = self.source.read(i)
        pixels = np.ascontiguousarray(image.pixels)
        role, name = ROLES[self.source.roles[i]], self.source.class_names[self.source.labels[i]]
        digest = hashlib.sha256(json.dumps([role, name, pixels.shape[:2]]).encode())
        digest.update(pixels.data)
        small = np.ascontiguousarray(self.preprocess.resize(pixels))  # (3, H, W)
        wide = small.reshape(3, -1).astype(np.float64)
        row["sums"] = np.concatenate([wide.sum(1), (wide * wide).sum(1)])
        row["digest"], row["pixel_digest"] = digest.digest(), pixel_digest(pixels)
        row["size"], row["more_pages"] = pixels.shape[:2], image.more_pages
        row["peak"], row["state"] = NO_PEAK if image.peak is None else image.peak, GOOD
        stored = small.tobytes()
        row["checksum"] = zlib.crc32(stored)
        return stored


def decoded(source: Source, *, start: int, preprocess: Preprocess, progress: Progress) -> Iterator[DecodedChunk]:
    """Decode and resize every image from number `start` on, in order.

    progress: called ten times per second; it may raise to stop.

    Raises: ResourceError if a reading process dies.
    """
    job, total = _Job(source=source, preprocess=preprocess), len(source.ids)
    chunk = max(1, min(_CHUNK, _CHUNK_BYTES // (3 * math.prod(preprocess.stored_size))))
    chunks = (range(i, min(i + chunk, total)) for i in range(start, total, chunk))
    cores = available_cores()
    end_s = time.perf_counter() + _ALONE_S
    next_s = 0.0

    def told(i: int) -> bool:
        nonlocal next_s
        if time.perf_counter() >= next_s:
            progress(_READING, i, total)
            next_s = time.perf_counter() + _POLL_S
        return True

    with strict_pillow():
        for numbers in chunks:
            yield job.images(numbers, told)
            if cores > 1 and time.perf_counter() > end_s:
                yield from _ahead(job, chunks, cores, numbers.stop, progress)
    progress(_READING, total, total)  # stops if a signal came since the last time


def _ahead(job: _Job, chunks: Iterator[range], cores: int, done: int, progress: Progress) -> Iterator[DecodedChunk]:
    """Decode all chunks ahead on `cores` workers and yield them in order."""
    total = len(job.source.ids)
    waiting: deque[Future[DecodedChunk]] = deque()
    with _pool(job, cores) as submit:
        while True:
            while len(waiting) < _CHUNKS_IN_FLIGHT * cores and (numbers := next(chunks, None)) is not None:
                waiting.append(submit(numbers))
            if not waiting:
                return
            progress(_READING, done, total)
            with contextlib.suppress(NotYet):
                found = waiting[0].result(timeout=_POLL_S)
                waiting.popleft()
                done += len(found.rows)
                yield found


@contextlib.contextmanager
def _pool(job: _Job, cores: int) -> Iterator[Callable[[range], Future[DecodedChunk]]]:
    """A pool of forked processes, or of threads if processes cannot be forked: a source cannot be pickled.

    Threads are slower for small images, since they wait for each other. On exit each worker stops after its current image.
    """
    pool: ProcessPoolExecutor | ThreadPoolExecutor
    if sys.platform == "linux":
        context = multiprocessing.get_context("fork")
        stopped: Any = context.Event()
        beginning = (job, stopped, context.Lock(), os.getpid())
        pool = ProcessPoolExecutor(cores, mp_context=context, initializer=_begin, initargs=beginning)
        work: Callable[[range], DecodedChunk] = _in_process
    else:
        stopped = threading.Event()
        pool = ThreadPoolExecutor(cores)

        def work(numbers: range) -> DecodedChunk:
            return job.images(numbers, lambda _: not stopped.is_set())

    try:
        yield lambda numbers: pool.submit(work, numbers)
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that reads images died, most likely because memory ran out",
            job.source.place,
            "rerun the same command to resume",
        ) from error
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


_of_process: Callable[[range], DecodedChunk]


def _in_process(numbers: range) -> DecodedChunk:
    return _of_process(numbers)


def _begin(job: _Job, stopped: Any, large: Any, parent: int) -> None:
    """Initialize a worker process, which exits if its parent dies."""
    global _of_process
    start_worker(large)
    _of_process = lambda numbers: job.images(numbers, lambda _: not stopped.is_set())  # noqa: E731
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
