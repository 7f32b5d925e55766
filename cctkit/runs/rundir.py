"""The run directory of this process: its lock, and atomic writes."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from cctkit.errors import InUseError, UserError
from cctkit.files import (
    full_disk_named,
    make_directories,
    remove_directories,
    sync_directory,
    unwritable,
    write_atomic,
)
from cctkit.runs.paths import RunPaths, check_run
from cctkit.runs.runfiles import read_metrics
from cctkit.text import counted, json_text, safe_text

_LOCK = ".cctkit.lock"
TIMING = ".timing"
"""A directory for what is written while the time of an epoch is measured."""
# What a start that was killed before its first step can leave beside its lock; `config.json` is written last.
_UNBEGUN = re.compile(
    r"\.timing|env\.json|seen\.safetensors|\.((env|config|seeds)\.json|seen\.safetensors)\.([0-9a-f]{8}-)?[0-9]+\.tmp"
)


class RunDir(RunPaths):
    """A run directory that this process writes to: a context manager around its lock."""

    def __init__(self, path: Path, lock: FileLock | None, *, made: Sequence[Path] = (), written: Iterable[Path] = ()) -> None:
        """
        lock: None if another process of the job holds it.
        made: the directories created for this run, innermost first.
        written: the files of this run in `path`.
        """
        super().__init__(path)
        self._lock, self._made, self._written = lock, made, set(written)

    @classmethod
    def create(cls, path: Path) -> "RunDir":
        """A new run in `path`, which may be an empty directory.

        Raises: InUseError if a live process holds it; UserError if it is not empty.
        """
        check_output(path)
        try:
            made = make_directories(path)
        except OSError as error:
            raise unwritable("cannot create the run directory", error, path) from error
        try:
            lock, written = _taken(path)
        except BaseException:
            remove_directories(made)
            raise
        return cls(path, lock, made=made, written=written)

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """The run in `path`, to resume it.

        Raises: UserError if there is none; InUseError if a live process holds it.
        """
        check_run(path)
        return cls(path, _locked(path))

    @classmethod
    def open_seeds(cls, path: Path) -> "RunDir":
        """The directory of several seeds in `path`, to resume it.

        Raises: InUseError if a live process holds it; UserError if it cannot be locked.
        """
        return cls(path, _locked(path))

    @classmethod
    def of_another(cls, path: Path) -> "RunDir":
        """The run that another process of the job holds, to read its paths and not to write to it."""
        return cls(path, None)

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()

    def discard(self) -> None:
        """Remove what a run wrote that has not begun training, and release the lock."""
        if self._lock is None:
            return
        for file in (*self._written, self.path / _LOCK):
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)
        remove_directories(self._made)
        self.close()

    def write_json(self, path: Path, value: Any) -> None:
        """Write `value` atomically; numbers that are not finite become null."""
        self.write_file(path, json_text(value, indent=2, sort_keys=True).encode() + b"\n")

    def write_file(self, path: Path, data: bytes) -> None:
        """Write `data` atomically."""
        self._written.add(path)
        write_atomic(path, data)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line and sync it to disk."""
        with full_disk_named(self.metrics), open(self.metrics, "ab") as file:
            file.write(json_text(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_metrics(self, epochs: int) -> None:
        """Keep the first `epochs` lines, those before the checkpoint.

        Raises: UserError if there are fewer.
        """
        records = read_metrics(self.metrics)
        if len(records) < epochs:
            raise UserError(
                f"{self.metrics.name} has {counted(len(records), 'epoch')}, expected {epochs:,} as in the checkpoint",
                safe_text(self.metrics),
                "restore the file, or start a new run",
            )
        lines = [json_text(record) + "\n" for record in records[:epochs]]
        write_atomic(self.metrics, "".join(lines).encode())


def check_output(path: Path) -> None:
    """Check that a run can be started in `path`, without creating or locking anything.

    Raises: UserError.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UserError("the output is a file, expected a directory", safe_text(path), "choose another --output")
        if path.exists() and any(path.iterdir()) and not (path / _LOCK).exists():
            raise _not_empty(path)
        over = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise UserError(f"cannot create the run directory: {error.strerror}", safe_text(path)) from error
    if not over.is_dir():
        raise UserError("cannot create the run directory: Not a directory", safe_text(over), "choose another --output")
    if not os.access(over, os.W_OK | os.X_OK):
        raise UserError("cannot create the run directory: Permission denied", safe_text(over), "choose another --output")


def _taken(path: Path) -> tuple[FileLock, list[Path]]:
    """The acquired lock of a new run, and the files that a start left there that was killed before its first step.

    The lock is acquired before the contents are looked at, so that of two starts at once one finds the directory in use.

    Raises: InUseError; UserError if the directory is not empty.
    """
    started = (path / _LOCK).exists()
    lock = _locked(path)
    try:
        found = [item for item in path.iterdir() if item.name != _LOCK]
        if found and not (started and all(_UNBEGUN.fullmatch(item.name) for item in found)):
            raise _not_empty(path)
        with full_disk_named(path, saved=False):
            sync_directory(path)  # no file of the run outlives a power failure without the lock, by which a start takes it over
    except BaseException:
        lock.release()
        raise
    return lock, found


def _not_empty(path: Path) -> UserError:
    return UserError(
        "the run directory is not empty, and nothing is overwritten",
        safe_text(path),
        f"resume it: --resume {safe_text(path)}, or choose another --output",
    )


def _locked(path: Path) -> FileLock:
    """The acquired lock of a run directory. It is free as soon as its holder dies."""
    lock = FileLock(path / _LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InUseError(
            "another process is using this run", safe_text(path), "wait until it ends, or choose another --output"
        ) from error
    except OSError as error:
        raise unwritable("cannot lock the run directory", error, path) from error
    except NotImplementedError as error:  # a file system without locks
        raise UserError(f"cannot lock the run directory: {safe_text(error)}", safe_text(path)) from error
    return lock
