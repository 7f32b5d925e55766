"""The run directory: its layout, its lock, and writes that are whole or not at all."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from cctkit.errors import InUseError, ResourceError, UserError
from cctkit.text import safe_text

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_LOCK = ".lock"
# What a start that was killed before its first step can have left; `config.json` is written last.
_UNBEGUN = {_LOCK, "env.json"}


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where things are in a run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def env(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.safetensors"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


class RunDir(RunPaths):
    """A run directory that this process holds: a context manager around its lock."""

    __slots__ = ("_lock", "_made")

    def __init__(self, path: Path, lock: FileLock, *, made: bool) -> None:
        super().__init__(path)
        object.__setattr__(self, "_lock", lock)
        object.__setattr__(self, "_made", made)

    @classmethod
    def create(cls, path: Path) -> "RunDir":
        """A new run in `path`, which may be an empty directory.

        Raises: InUseError where a live process holds it; UserError where anything is in it.
        """
        made = not path.exists()
        if path.exists() and not path.is_dir():
            raise UserError("the output is a file, expected a directory", safe_text(path), "choose another --output")
        lock = _locked(path) if (path / _LOCK).exists() else None
        if not made and any(item.name not in _UNBEGUN and item.suffix != ".tmp" for item in path.iterdir()):
            if lock is not None:
                lock.release()
            raise UserError(
                "the run directory is not empty, and nothing is overwritten",
                safe_text(path),
                f"go on with it: --resume {safe_text(path)}, or choose another --output",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run directory: {error.strerror}", safe_text(path)) from error
        return cls(path, lock or _locked(path), made=made)

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """The run in `path`, to go on with it.

        Raises: UserError where there is none; InUseError where a live process holds it.
        """
        if not RunPaths(path).config.is_file():
            raise UserError("this is no run directory: it has no config.json", safe_text(path))
        return cls(path, _locked(path), made=False)

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.release()  # type: ignore[attr-defined]

    def discard(self) -> None:
        """Remove a run that has not begun: all that was written since `create`."""
        if self._made:  # type: ignore[attr-defined]
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):  # `runs/`, where it was made for this run
                self.path.parent.rmdir()
            return
        for item in self.path.iterdir():
            shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink(missing_ok=True)

    def write_json(self, path: Path, value: Any) -> None:
        """Write `value` whole; what is not finite becomes null."""
        write_atomic(path, json.dumps(finite(value), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line and bring it to the disk."""
        with full_disk_named(self.metrics), open(self.metrics, "ab") as file:
            file.write(json.dumps(finite(record)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_metrics(self, epochs: int) -> None:
        """Keep the first `epochs` lines: those that the checkpoint knows of."""
        lines = [json.dumps(record) + "\n" for record in read_metrics(self.metrics)[:epochs]]
        write_atomic(self.metrics, "".join(lines).encode())


def read_json(path: Path, *required: str) -> dict[str, Any]:
    """A JSON object of a run that has at least these keys.

    Raises: UserError where it cannot be read, is no JSON, or lacks one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in required if key not in value]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"this file of the run cannot be read: {safe_text(error)}", safe_text(path)) from error
    if missing or not isinstance(value, dict):
        raise UserError(f"this file of the run lacks {', '.join(missing) or 'its keys'}", safe_text(path))
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a torn last line is dropped.

    Raises: UserError where an earlier line is no JSON.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"line {number} is no JSON", safe_text(path)) from error
    return records


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity, which JSON has not, as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside, fsynced, renamed into place, the directory fsynced.

    Raises: ResourceError where the disk is full or failing; the file is then as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_named(path):
            write_synced(beside, data)
            os.replace(beside, path)
            sync_directory(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and bring it to the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Bring a directory's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(
                f"cannot write: {error.strerror}; what was saved before is intact",
                safe_text(path),
                "free some space, then --resume",
            ) from error
        raise UserError(f"cannot write: {error.strerror}", safe_text(path)) from error


def _locked(path: Path) -> FileLock:
    """The lock of a run directory, taken. It is free at once when its holder dies."""
    lock = FileLock(path / _LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InUseError(
            "another process is using this run", safe_text(path), "wait for it, or choose another --output"
        ) from error
    except OSError as error:
        raise UserError(f"cannot lock the run directory: {error.strerror}", safe_text(path)) from error
    return lock


def default_name(dataset: str, model: str, now: datetime, root: Path = Path("runs")) -> Path:
    """`runs/<dataset>-<model>-<time>`, in characters that every file system takes; numbered where it is taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{dataset}-{model}")[:80] + now.strftime("-%Y%m%d-%H%M%S")
    names = (root / (stem + (f"-{i}" if i else "")) for i in range(1000))
    return next(path for path in names if not path.exists())


def newest_run(root: Path) -> Path:
    """The run under `root` that was begun last and has its weights.

    Raises: UserError where there is none.
    """
    runs = [path.parent for path in root.glob("*/weights.safetensors")]
    if not runs:
        raise UserError("there is no finished run", safe_text(root), "train one: cctkit train, or name a run or weights file")
    return max(runs, key=lambda path: RunPaths(path).config.stat().st_mtime)
