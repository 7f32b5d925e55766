"""An unfinished packed file: its images and a journal of their metadata, from which packing resumes."""

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cctkit.data.packed.decode import BAD, GOOD, ROW, DecodedChunk, Rows
from cctkit.data.source import Progress
from cctkit.files import sync_directory, write_synced
from cctkit.locking import locked, locked_if_free

_COMMIT_EVERY_S = 5.0
_KEPT_S = 7 * 24 * 3600
_KEY_BYTES = 64  # of a SHA-256, in hexadecimal digits, with which the journal begins


class PartialFile:
    """The images and journal rows written by one process.

    A row is written after its image has reached the disk, so the journal is always valid. After a kill or a power failure,
    the next process drops images without a row and resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = _opened(path)
        try:
            self._journal = _opened(_files(path)[1])
        except OSError:
            self.images.close()
            if path.stat().st_size == 0:
                path.unlink()
            raise
        self._pending: list[bytes] = []
        self._next_s = 0.0

    def matches(self, key: str) -> bool:
        """Whether the file was begun with this key, a SHA-256 of the images and the settings."""
        self._journal.seek(0)
        return self._journal.read(_KEY_BYTES) == key.encode()

    def begin(
        self, key: str, *, offset: int, image_bytes: int, total: int, is_readable: Callable[[int], bool] = lambda _: False
    ) -> int:
        """Prepare to append and return the number of images already there: 0 unless the key matches and the file is intact.

        is_readable: whether an image that was bad can be read now, as after an error of the disk; it and all after it are read.
        """
        rows = self.rows() if self.matches(key) else np.zeros(0, dtype=ROW)
        written = (rows["state"] != 0) & (rows["row_checksum"] == _checksums(rows))
        rows = rows[: len(rows) if written.all() else int(written.argmin())]
        bad = map(int, np.flatnonzero(rows["state"][:total] == BAD))
        rows = rows[: next(filter(is_readable, bad), len(rows))]
        end = offset + image_bytes * int(np.count_nonzero(rows["state"] == GOOD))
        if len(rows) > total or os.fstat(self.images.fileno()).st_size < end:
            rows, end = rows[:0], offset
        number = len(rows)
        del rows  # no file is cut, or replaced, while it is mapped
        if number == 0:
            self._begin_journal(key)
        self._journal.truncate(_KEY_BYTES + number * ROW.itemsize)
        self._journal.seek(0, os.SEEK_END)
        self.images.truncate(end)
        self.images.seek(end)
        self._next_s = time.monotonic() + _COMMIT_EVERY_S
        return number

    def _begin_journal(self, key: str) -> None:
        """Replace the old journal by an empty one atomically, so that a new key never precedes old rows."""
        _, path, beside = _files(self.path)
        write_synced(beside, key.encode())
        self._journal.close()
        os.replace(beside, path)
        sync_directory(path.parent)  # before the first of the new images takes the place of an old one
        self._journal = _opened(path)

    def add(self, found: DecodedChunk) -> None:
        """Append a chunk; it reaches the disk within a few seconds."""
        self.images.write(found.pixels)
        found.rows["row_checksum"] = _checksums(found.rows)
        self._pending.append(found.rows.tobytes())
        if time.monotonic() >= self._next_s:
            self.commit()

    def commit(self) -> None:
        """Flush everything that was added to the disk."""
        self.images.flush()
        os.fsync(self.images.fileno())
        self._journal.write(b"".join(self._pending))
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._pending.clear()
        self._next_s = time.monotonic() + _COMMIT_EVERY_S

    def rows(self) -> Rows:
        """The rows of the journal, memory-mapped: (n,) of ROW."""
        number = (os.fstat(self._journal.fileno()).st_size - _KEY_BYTES) // ROW.itemsize
        if number <= 0:
            return np.zeros(0, dtype=ROW)
        return np.memmap(self._journal, dtype=ROW, mode="r", offset=_KEY_BYTES, shape=(number,))

    def finish(self, path: Path) -> None:
        """Rename the finished file to `path` and remove the journal."""
        self.close()  # what is open has to keep its name on Windows
        os.replace(self.path, path)
        sync_directory(path.parent)  # before the journal is removed, without which the images are decoded again
        self.remove()

    def close(self) -> None:
        self.images.close()
        self._journal.close()

    def remove(self) -> None:
        """Remove all files."""
        for file in (self.images, self._journal):
            with contextlib.suppress(OSError):  # of what could not be written, as was said before
                file.close()
        for path in _files(self.path):
            path.unlink(missing_ok=True)


def _checksums(rows: Rows) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """CRC-32 of each of `rows` (n,) without the last column, which stores it."""
    facts = rows.view(np.uint8).reshape(len(rows), ROW.itemsize)[:, : ROW.fields["row_checksum"][1]]  # type: ignore[index]
    return np.fromiter(map(zlib.crc32, facts), dtype=np.uint32, count=len(rows))


def _files(path: Path) -> tuple[Path, Path, Path]:
    """Paths of the images, of the journal, and of the next journal."""
    return path, path.with_name(path.name + ".rows"), path.with_name(path.name + ".rows.new")


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def partial_path(path: Path) -> Path:
    """Path of the unfinished file of `path`."""
    return path.with_name(path.name + ".part")


@contextlib.contextmanager
def open_partial(path: Path, progress: Progress) -> Iterator[PartialFile]:
    """Lock and open the partial file `path`; wait while another process holds it."""
    with locked(_lock_of(path), lambda: progress("waiting for another process that packs these images", 0, 1)):
        begun = PartialFile(path)
        try:
            yield begun
        finally:
            begun.close()


def _opened(path: Path) -> BinaryIO:
    """Open a file for reading and writing; create it if it does not exist."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")


def remove_stale(folder: Path) -> None:
    """Remove partial files that are older than a week and not in use."""
    for path in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_S:
                with locked_if_free(_lock_of(path)) as free:
                    for each in _files(path) if free else ():
                        each.unlink(missing_ok=True)
