"""A lock file beside what one process alone may write at a time."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_S = 0.1


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock file `path`, which is gone afterwards. It is free at once when its holder dies.

    waiting: called ten times a second while another process has it; may raise to stop.

    Raises: OSError where the file cannot be made.
    """
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=_POLL_S)
            break
        except Timeout:
            waiting()
    with _released(lock):
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Whether the lock file `path` could be had without waiting; it is then held, and gone afterwards."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    with _released(lock):
        yield True


@contextlib.contextmanager
def _released(lock: FileLock) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # before the release: who waits for it makes a new one, and nobody loses one
            Path(lock.lock_file).unlink()
        lock.release()
