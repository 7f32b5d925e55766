"""A packed file in the making, with which another start goes on: its images, and a journal of what is known of them."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cctkit.data.decoding import GOOD, ROW, Images, Rows
from cctkit.data.source import Progress

_COMMIT_EVERY_S = 5.0
_POLL_S = 0.1
_KEPT_S = 7 * 24 * 3600
_KEY_BYTES = 64  # of a SHA-256, in hexadecimal digits, with which the journal begins


class Partial:
    """Images and rows that one process writes.

    Rows go into the journal once their images are on the disk, so the journal is true at every instant: whoever comes after a
    kill or a power failure drops what images it does not know of, and goes on.
    """

    def __init__(self, images: BinaryIO, journal: BinaryIO, *, path: Path) -> None:
        self.images, self.path = images, path
        self._journal = journal
        self._pending: list[bytes] = []
        self._next_s = 0.0

    def matches(self, key: str) -> bool:
        """Whether what is there was begun under this key (a SHA-256 of what is packed, and how)."""
        self._journal.seek(0)
        return self._journal.read(_KEY_BYTES) == key.encode()

    def begin(self, key: str, *, offset: int, image_bytes: int, total: int) -> int:
        """The number of images that are there already: those of `key`, of which the file holds all at `offset`; else none."""
        rows = self.rows() if self.matches(key) else np.zeros(0, dtype=ROW)
        written = rows["state"] != 0
        rows = rows[: len(rows) if written.all() else int(written.argmin())]
        end = offset + image_bytes * int(np.count_nonzero(rows["state"] == GOOD))
        if len(rows) > total or os.fstat(self.images.fileno()).st_size < end:
            rows, end = rows[:0], offset
        if len(rows) == 0:
            self._journal.seek(0)
            self._journal.write(key.encode())
        number = len(rows)
        del rows  # no file is cut while it is mapped
        self._journal.truncate(_KEY_BYTES + number * ROW.itemsize)
        self._journal.seek(0, os.SEEK_END)
        self.images.truncate(end)
        self.images.seek(end)
        self._next_s = time.monotonic() + _COMMIT_EVERY_S
        return number

    def add(self, found: Images) -> None:
        """Write some images. Within a few seconds they are safe."""
        self.images.write(found.pixels)
        self._pending.append(found.rows.tobytes())
        if time.monotonic() >= self._next_s:
            self.commit()

    def commit(self) -> None:
        """Bring all that was added to the disk."""
        self.images.flush()
        os.fsync(self.images.fileno())
        self._journal.write(b"".join(self._pending))
        self._journal.flush()
        self._pending.clear()
        self._next_s = time.monotonic() + _COMMIT_EVERY_S

    def rows(self) -> Rows:
        """What the journal holds, mapped: (n,) of ROW."""
        number = (os.fstat(self._journal.fileno()).st_size - _KEY_BYTES) // ROW.itemsize
        if number <= 0:
            return np.zeros(0, dtype=ROW)
        return np.memmap(self._journal, dtype=ROW, mode="r", offset=_KEY_BYTES, shape=(number,))

    def finish(self, path: Path) -> None:
        """Let the images, to which the rest of the file was added, become `path`."""
        os.replace(self.path, path)
        _files(self.path)[1].unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing."""
        for path in _files(self.path):
            path.unlink(missing_ok=True)


def _files(path: Path) -> tuple[Path, Path]:
    return path, path.with_name(path.name + ".rows")


def partial_path(path: Path) -> Path:
    """Where the images of `path` are while it is in the making."""
    return path.with_name(path.name + ".part")


@contextlib.contextmanager
def hold(path: Path, progress: Progress) -> Iterator[Partial]:
    """The partial file `path`, for this process alone; while another has it, that is waited for."""
    while True:
        with _opened(path) as images:
            if _lock(images) and _is(images, path):  # else whoever had it has renamed or removed it
                with _opened(_files(path)[1]) as journal:
                    yield Partial(images, journal, path=path)
                return
        progress("waiting for another start that reads these images", 0, 1)
        time.sleep(_POLL_S)


def _opened(path: Path) -> BinaryIO:
    """A file to read and write, as it is, or new."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _is(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> bool:
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def remove_stale(folder: Path) -> None:
    """What was begun more than a week ago, and nobody is at."""
    for path in folder.glob("*.part"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if time.time() - path.stat().st_mtime > _KEPT_S and _lock(file):
                for each in _files(path):
                    each.unlink(missing_ok=True)
