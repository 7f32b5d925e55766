"""The run directory: its layout, its lock, and writes that are whole or not at all."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from cctkit.errors import InUseError, UserError
from cctkit.files import full_disk_named, unwritable, write_atomic
from cctkit.runs.runfiles import read_metrics
from cctkit.text import counted, json_text, safe_text

_LOCK = ".cctkit.lock"
DEFAULT_ROOT = Path("runs")
# What a start that was killed before its first step can have left beside its lock; `config.json` is written last.
_UNBEGUN = re.compile(r"env\.json|seen\.safetensors|\.((env|config)\.json|seen\.safetensors)\.([0-9a-f]{8}-)?[0-9]+\.tmp")


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
    def seen(self) -> Path:
        """The digests of the images trained on."""
        return self.path / "seen.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def last(self) -> Path:
        """The newest epoch's weights, where `weights` are others: of a better epoch."""
        return self.path / "last.safetensors"

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

    __slots__ = ("_lock", "_made", "_written")

    def __init__(self, path: Path, lock: FileLock | None, *, made: Sequence[Path] = (), written: Iterable[Path] = ()) -> None:
        """made: the directories that had to be made, innermost first; written: the files in them that are this run's.

        lock: None where another process of the job holds it.
        """
        super().__init__(path)
        object.__setattr__(self, "_lock", lock)
        object.__setattr__(self, "_made", made)
        object.__setattr__(self, "_written", set(written))

    @classmethod
    def create(cls, path: Path) -> "RunDir":
        """A new run in `path`, which may be an empty directory.

        Raises: InUseError where a live process holds it; UserError where anything is in it.
        """
        check_output(path)
        made = _make_directories(path)
        try:
            lock, written = _taken(path)
        except BaseException:
            _remove_directories(made)
            raise
        return cls(path, lock, made=made, written=written)

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """The run in `path`, to go on with it.

        Raises: UserError where there is none; InUseError where a live process holds it.
        """
        check_run(path)
        return cls(path, _locked(path))

    @classmethod
    def of_another(cls, path: Path) -> "RunDir":
        """The run that another process of the job holds: to name it, not to write in it."""
        return cls(path, None)

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:  # type: ignore[attr-defined]
            self._lock.release()  # type: ignore[attr-defined]

    def discard(self) -> None:
        """Remove a run that has not begun, and nothing but what it wrote itself; let go of it."""
        if self._lock is None:  # type: ignore[attr-defined]
            return
        for file in (*self._written, self.path / _LOCK):  # type: ignore[attr-defined]
            file.unlink(missing_ok=True)
        _remove_directories(self._made)  # type: ignore[attr-defined]
        self.close()

    def write_json(self, path: Path, value: Any) -> None:
        """Write `value` whole; what is not finite becomes null."""
        self.write_file(path, json_text(finite(value), indent=2, sort_keys=True).encode() + b"\n")

    def write_file(self, path: Path, data: bytes) -> None:
        """Write `data` whole."""
        self._written.add(path)  # type: ignore[attr-defined]
        write_atomic(path, data)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line and bring it to the disk."""
        with full_disk_named(self.metrics), open(self.metrics, "ab") as file:
            file.write(json.dumps(finite(record)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_metrics(self, epochs: int) -> None:
        """Keep the first `epochs` lines: those that the checkpoint knows of.

        Raises: UserError where some of them are not there.
        """
        records = read_metrics(self.metrics)
        if len(records) < epochs:
            raise UserError(
                f"{self.metrics.name} has {counted(len(records), 'epoch')}, the checkpoint {epochs:,}",
                safe_text(self.metrics),
                "restore the file, or start a new run",
            )
        lines = [json.dumps(record) + "\n" for record in records[:epochs]]
        write_atomic(self.metrics, "".join(lines).encode())


def check_run(path: Path) -> None:
    """Nothing where `path` is a run.

    Raises: UserError.
    """
    if not RunPaths(path).config.is_file():
        raise UserError("this is no run directory: it has no config.json", safe_text(path))


def check_output(path: Path) -> None:
    """Nothing where a run could be begun in `path`, as far as looking tells; nothing is made or locked.

    Raises: UserError.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UserError("the output is a file, expected a directory", safe_text(path), "choose another --output")
        if path.exists() and any(path.iterdir()) and not (path / _LOCK).exists():
            raise _not_empty(path)
        over = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        raise UserError(f"cannot make the run directory: {error.strerror}", safe_text(path)) from error
    if not over.is_dir():
        raise UserError("cannot make the run directory: Not a directory", safe_text(over), "choose another --output")
    if not os.access(over, os.W_OK | os.X_OK):
        raise UserError("cannot make the run directory: Permission denied", safe_text(over), "choose another --output")


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity, which JSON has not, as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _make_directories(path: Path) -> list[Path]:
    """Make `path` with its parents; those that were not there before, innermost first."""
    made: list[Path] = []
    for folder in reversed([each for each in (path, *path.parents) if not each.exists()]):
        try:
            folder.mkdir()
        except FileExistsError:  # another start was faster
            continue
        except OSError as error:
            _remove_directories(made)
            raise unwritable("cannot make the run directory", error, path) from error
        made.insert(0, folder)
    return made


def _remove_directories(made: Sequence[Path]) -> None:
    """Remove directories made here, unless there is something in them by now."""
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _taken(path: Path) -> tuple[FileLock, list[Path]]:
    """The lock of a directory without a run, and what a start that was killed before its first step has left there.

    The lock is tried before the contents are judged, so that of two starts at once one finds the directory in use; but
    into a directory with anything else's files no lock is put.

    Raises: InUseError; UserError where the directory is not empty.
    """
    started = (path / _LOCK).exists()
    if not started and any(path.iterdir()) and not (path / _LOCK).exists():
        raise _not_empty(path)
    lock = _locked(path)
    found = [item for item in path.iterdir() if item.name != _LOCK]
    if not (started and all(_UNBEGUN.fullmatch(item.name) for item in found)) and found:
        lock.release()
        raise _not_empty(path)
    return lock, found


def _not_empty(path: Path) -> UserError:
    return UserError(
        "the run directory is not empty, and nothing is overwritten",
        safe_text(path),
        f"go on with it: --resume {safe_text(path)}, or choose another --output",
    )


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
        raise unwritable("cannot lock the run directory", error, path) from error
    except NotImplementedError as error:  # a file system without locks
        raise UserError(f"cannot lock the run directory: {safe_text(error)}", safe_text(path)) from error
    return lock


def default_name(dataset: str, model: str, now: datetime, root: Path = DEFAULT_ROOT) -> Path:
    """`runs/<dataset>-<model>-<time>`, in characters that every file system takes; numbered where it is taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{dataset}-{model}")[:80] + now.strftime("-%Y%m%d-%H%M%S")
    names = (root / (stem + (f"-{i}" if i else "")) for i in range(1000))
    return next(path for path in names if not path.exists())


def weights_file(source: Path) -> Path:
    """The weights of the run directory `source`; a file as it is.

    Raises: UserError where a directory has none.
    """
    if not source.is_dir():
        return source
    run = RunPaths(source)
    if run.weights.exists():
        return run.weights
    if run.config.is_file():
        raise UserError(
            "this run has no weights yet: its first epoch is not done",
            safe_text(source),
            f"go on with it: cctkit train --resume {safe_text(source)}",
        )
    raise UserError("this is no run directory: it has no config.json", safe_text(source))


def newest_run(root: Path) -> Path:
    """The run under `root` that was begun last, of those that have weights: finished, or with an epoch done.

    Raises: UserError where there is none.
    """
    runs = [path.parent for path in root.glob("*/weights.safetensors") if RunPaths(path.parent).config.exists()]
    if not runs:
        raise UserError(
            "there is no run with weights", safe_text(root), "train one: cctkit train, or name a run or weights file"
        )
    return max(runs, key=lambda path: RunPaths(path).config.stat().st_mtime)
