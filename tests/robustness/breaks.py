"""Builds that are broken on purpose, by name: for each promise a defect that its test has to find.

Each breaks what is imported in this process with `patch`, called as `setattr` is. Nothing in the product knows of them.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Patch = Callable[[Any, str, Any], None]


def _masks_from_a_counter(patch: Patch) -> None:
    """Dropout masks go on where the process is, not where the run is."""
    from cctkit.training import step

    calls = itertools.count()
    patch(step, "step_seed", lambda seed, _step, rank=0: 1000 * seed + next(calls) + rank)


def _ema_not_restored(patch: Patch) -> None:
    from torch.optim.swa_utils import AveragedModel

    patch(AveragedModel, "load_state_dict", lambda *_: None)


def _fsync_of_files_does_nothing(patch: Patch) -> None:
    """The files of a checkpoint are renamed, and their directory is fsynced, before their contents are on the disk."""
    from cctkit.training import checkpoint

    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    patch(checkpoint, "write_synced", write)


def _parents_are_not_synced(patch: Patch) -> None:
    """As it was before: the names of a new run directory and of its parents were left to the system."""
    from cctkit.runs import rundir

    def make(path: Path) -> list[Path]:
        made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        return made

    patch(rundir, "make_directories", make)


def _journal_is_not_synced(patch: Patch) -> None:
    """As it was before: rows of the journal were left to the system."""
    from cctkit.data.packed import journal

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, descriptor: int) -> None:
            if not os.readlink(f"/proc/self/fd/{descriptor}").endswith(".rows"):
                os.fsync(descriptor)

    patch(journal, "os", Os())


def _renamed_before_the_fsync(patch: Patch) -> None:
    """Settings, metrics and weights have their names before their contents are on the disk."""
    from cctkit.files import sync_directory
    from cctkit.models import weights
    from cctkit.runs import predictions, rundir

    def write(path: Path, data: bytes) -> None:
        beside = path.with_name(f".{path.name}.tmp")
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.replace(beside, path)
            sync_directory(path.parent)
            os.fsync(file.fileno())

    for module in (weights, predictions, rundir):
        patch(module, "write_atomic", write)


def _full_disk_is_any_error(patch: Patch) -> None:
    """A full disk is exit 2, as if the user had named a wrong file."""
    from cctkit import files

    patch(files, "_FULL", set())


def _unfinished_checkpoints_stay(patch: Patch) -> None:
    from cctkit.training import checkpoint

    kept = type("Kept", (), {"rmtree": staticmethod(lambda *_, **__: None)})
    patch(checkpoint, "shutil", kept)


def _files_of_killed_processes_stay(patch: Patch) -> None:
    from cctkit import files

    patch(files, "_remove_stale", lambda _: None)


def _bad_images_stay_bad(patch: Patch) -> None:
    """As it was before: an image that the disk failed to read once is broken for good."""
    from cctkit.data.packed import pack

    def is_readable(_source: object, i: int, reasons: dict[int, str]) -> bool:
        reasons[i] = "it could not be read at first"
        return False

    patch(pack, "_is_readable", is_readable)


def _late_signals_are_swallowed(patch: Patch) -> None:
    """As it was before: a signal after the last look of `cctkit inspect` at it changed nothing."""
    from cctkit.engine.signals import StopRequest

    patch(StopRequest, "check", lambda _: None)


def _signals_are_swallowed(patch: Patch) -> None:
    from cctkit.engine.signals import StopRequest

    patch(StopRequest, "_receive", lambda *_: None)


def _no_lock(patch: Patch) -> None:
    """Each start has a lock of its own."""
    from filelock import FileLock

    from cctkit.runs import rundir

    def locked(path: Path) -> FileLock:
        lock = FileLock(path / ".cctkit.lock" if not path.exists() else path.parent / f".lock of {os.getpid()}")
        lock.acquire()
        (path / ".cctkit.lock").touch()
        return lock

    patch(rundir, "_locked", locked)


def _no_guard(patch: Patch) -> None:
    """Every update is made."""
    from cctkit.training import step

    def step_all(optimizers: list[Any], _ok: object) -> None:
        for optimizer in optimizers:
            optimizer.step()

    patch(step, "_step_where", step_all)


def _descriptors_leak(patch: Patch) -> None:
    from cctkit.training import loop

    held: list[int] = []
    real = loop.save

    def save(*arguments: Any) -> None:
        held.append(os.open(os.devnull, os.O_RDONLY))
        real(*arguments)

    patch(loop, "save", save)


BREAKS: dict[str, Callable[[Patch], None]] = {
    "masks from a counter": _masks_from_a_counter,
    "EMA not restored": _ema_not_restored,
    "fsync of files does nothing": _fsync_of_files_does_nothing,
    "parents are not synced": _parents_are_not_synced,
    "journal is not synced": _journal_is_not_synced,
    "renamed before the fsync": _renamed_before_the_fsync,
    "a full disk is any error": _full_disk_is_any_error,
    "unfinished checkpoints stay": _unfinished_checkpoints_stay,
    "files of killed processes stay": _files_of_killed_processes_stay,
    "bad images stay bad": _bad_images_stay_bad,
    "late signals are swallowed": _late_signals_are_swallowed,
    "signals are swallowed": _signals_are_swallowed,
    "no lock": _no_lock,
    "no guard": _no_guard,
    "descriptors leak": _descriptors_leak,
}
