"""Lock files, so that only one process writes at a time."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_S = 0.1


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock file `path`, and remove it afterwards. It is released if its process dies.

    waiting: called ten times per second while another process holds it; may raise to stop.

    Raises: OSError if the file cannot be created.
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
    """Hold the lock file `path` if it is free, and yield whether it was."""
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
        with contextlib.suppress(OSError):  # before the release, so that no other process's lock is removed
            Path(lock.lock_file).unlink()
        lock.release()
