"""Checkpoints: directories of safetensors and JSON, written beside and renamed into place; two generations are kept."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cctkit.errors import UserError
from cctkit.models.weights import stored
from cctkit.rundir import full_disk_named, sync_directory, write_synced
from cctkit.text import safe_text

_GENERATIONS = 2
_NAME = re.compile(r"step-(\d{9})")
_TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A checkpoint as read: the tensors by file, and the JSON values."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(folder: Path, *, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write `folder/step-<step>` whole or not at all, then drop all but the two newest generations.

    Each file is fsynced before the manifest with their sha256, the manifest before the rename, the rename at the end: at
    every instant after the first one there is a valid checkpoint on the disk.

    Raises: DiskError where the disk is full or failing; the older checkpoints are then as they were.
    """
    target = folder / f"step-{step:09}"
    beside = folder / f"{_TEMPORARY}{os.getpid()}"
    try:
        with full_disk_named(target):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_stale(folder)
            beside.mkdir()
            _write_files(beside, tensors, state)
            if target.exists():  # the same step again, after a resume: the newer bytes are the same, or the old were spoilt
                shutil.rmtree(target)
            os.rename(beside, target)
            sync_directory(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for old in _generations(folder)[_GENERATIONS:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _write_files(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    files = {f"{name}.safetensors": save(stored(part)) for name, part in tensors.items()}
    files["state.json"] = json.dumps(state, sort_keys=True).encode()
    manifest = {name: _facts(data) for name, data in files.items()}
    files["manifest.json"] = json.dumps(manifest, sort_keys=True).encode()
    for name, data in files.items():
        write_synced(folder / name, data)
    sync_directory(folder)


def _facts(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def load_checkpoint(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest valid checkpoint; None where there is none at all. A spoilt newer one is named through `warn`.

    Raises: UserError where there are some, and none is valid.
    """
    generations = _generations(folder)
    for path in generations:
        try:
            return _read(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            warn(f"checkpoint {path.name} is spoilt ({safe_text(error)}); trying the one before")
    if generations:
        raise UserError("no checkpoint of this run is valid", safe_text(folder), "start a new run")
    return None


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / "manifest.json").read_bytes())
    files = {}
    for name, facts in manifest.items():
        data = (path / Path(name).name).read_bytes()
        if facts != _facts(data):
            raise ValueError(f"{name} is not what was written")
        files[name] = data
    state = json.loads(files.pop("state.json"))
    tensors = {name.removesuffix(".safetensors"): load(data) for name, data in files.items()}
    return Checkpoint(path=path, step=int(path.name.removeprefix("step-")), tensors=tensors, state=state)


def _generations(folder: Path) -> list[Path]:
    """The checkpoints that are there, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _remove_stale(folder: Path) -> None:
    """What writers left that were killed; the run's lock says that none is at work."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
