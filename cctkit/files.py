"""Atomic writing of files; errors if they cannot be written."""

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

from cctkit.errors import DiskError, UserError
from cctkit.text import safe_text

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_TEMPORARY = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]{1,9})\.tmp")
_KEPT_S = 24 * 3600
_MOST_BYTES = 16 * 2**20


def read_limited(path: Path, most: int = _MOST_BYTES) -> bytes:
    """The contents of a file that a person may have written, such as JSON: at most `most` bytes, even of an endless device.

    Raises: UserError if it is longer; OSError.
    """
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{safe_text(path.name)} is malformed: too large", safe_text(path))
    return data


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically: a temporary file is fsynced and renamed, then the directory is fsynced.

    Temporary files of killed processes in the directory are removed.

    Raises: DiskError if the disk is full or failing; the file is then unchanged.
    """
    with new_file(path) as file, full_disk_named(path):
        file.write(data)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name at the end, if nothing is raised; see `write_atomic`.

    Raises: DiskError where the disk is full or failing, in opening and finishing; `full_disk_named` says it of a write.
    """
    beside = _beside(path)
    try:
        with full_disk_named(path):
            _remove_stale(path.parent)
            file = open(beside, "wb")  # noqa: SIM115
        try:
            yield file
            with full_disk_named(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(OSError):  # of what could not be written, as was said before
                file.close()
        with full_disk_named(path):
            os.replace(beside, path)
            sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill with fsynced files, which gets its name at the end; see `write_atomic`. An empty folder is replaced.

    Raises: DiskError if the disk is full or failing.
    """
    beside = _beside(path)
    with full_disk_named(path, saved=False):
        make_directories(path.parent)
        _remove_stale(path.parent)
        try:
            beside.mkdir()
            yield beside
            sync_directory(beside)
            if path.is_dir():
                path.rmdir()
            beside.rename(path)
            sync_directory(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and fsync it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_directories(path: Path) -> list[Path]:
    """Create a directory and its missing parents, and fsync the names of all; return those created, innermost first.

    Raises: OSError; what was created is then removed.
    """
    made: list[Path] = []
    try:
        for folder in reversed([each for each in (path, *path.parents) if not each.exists()]):
            with contextlib.suppress(FileExistsError):  # by another process
                folder.mkdir()
                made.insert(0, folder)
                sync_directory(folder.parent)
    except OSError:
        remove_directories(made)
        raise
    return made


def remove_directories(made: Iterable[Path]) -> None:
    """Remove the directories that are empty."""
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def sync_directory(path: Path) -> None:
    """Fsync a directory. Does nothing on Windows, which cannot open directories."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_named(path: Path, *, saved: bool | None = None) -> Iterator[None]:
    """Raise an OSError of writing to `path` as UserError, or as DiskError if the disk is full or failing.

    saved: whether an earlier file remains; by default, whether `path` exists.
    """
    saved = path.exists() if saved is None else saved
    try:
        yield
    except OSError as error:
        raise unwritable("cannot write", error, path, saved=saved) from error


def unwritable(what: str, error: OSError, path: Path, *, saved: bool = False) -> UserError:
    """Make the UserError for an OSError of writing to `path`."""
    if error.errno in _FULL:
        kept = "; what was saved before is intact" if saved else ""
        return DiskError(f"{what}: {error.strerror}{kept}", safe_text(path), "free some space")
    return UserError(f"{what}: {safe_text(error.strerror or error)}", safe_text(path))


def failing_disk(error: BaseException | None) -> bool:
    """Whether an error comes from a disk that fails: a reader calls a file damaged that it could not read."""
    while error is not None and not (isinstance(error, OSError) and error.errno == errno.EIO):
        error = error.__cause__
    return error is not None


@cache
def _machine() -> str:
    """A name for the machine or container, within which process IDs are unique."""
    with contextlib.suppress(OSError):
        return _short(platform.node(), os.stat("/proc/self/ns/pid").st_ino)
    return _short(platform.node())


def _short(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def _beside(path: Path) -> Path:
    """The temporary name under which `path` is written."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.tmp")


def _remove_stale(folder: Path) -> None:
    """Remove the temporary files and folders of dead processes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            with contextlib.suppress(OSError):
                if found and _is_dead(found["machine"], int(found["pid"]), entry.stat().st_mtime):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _is_dead(machine: str, pid: int, written: float) -> bool:
    """Whether a process is dead; assumed after a day for other machines and on Windows, where it cannot be asked."""
    if machine != _machine() or sys.platform == "win32":
        return time.time() - written > _KEPT_S
    with contextlib.suppress(PermissionError):  # a process of another user
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
    return False
