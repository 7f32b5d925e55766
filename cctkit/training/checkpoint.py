"""Checkpoints: directories of safetensors and JSON files, written under a temporary name and renamed; the newest two are kept.

If the tensors are sharded, each rank writes one file per part, with its rows of the tensors.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cctkit.engine.distributed import ALONE, DistContext
from cctkit.errors import UserError
from cctkit.files import full_disk_named, make_directories, sync_directory, write_synced
from cctkit.models.weights import stored
from cctkit.text import safe_text
from cctkit.training.shards import is_dtensor, to_local

_GENERATIONS = 2
_NAME = re.compile(r"step-(\d{9})")
_TEMPORARY = ".tmp-"
_SHARD = re.compile(r"(?P<part>[a-z]+)-(?P<writer>\d{1,6})-of-(?P<writers>\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A checkpoint: tensors by part and name, and JSON values."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    context: DistContext = ALONE,
) -> Path:
    """Write `folder/step-<step>` whole or not at all, then remove all but the two newest checkpoints. All ranks call it.

    Rank 0 writes it. If tensors are sharded, each rank writes its rows of them; read again, the checkpoint is that of one
    process.

    Files are synced to disk before the manifest with their SHA-256, the manifest before the rename that ends it, so that from
    the first checkpoint on there always is a valid one on disk.

    Raises: DiskError if the disk is full or failing, which leaves the older checkpoints as they were; UserError if a rank's
    machine does not see the directory.
    """
    sharded = any(is_dtensor(tensor) for named in tensors.values() for tensor in named.values())
    beside = context.run_on_rank0(lambda: begin_checkpoint(folder))
    try:
        with context.sync_errors():
            written = {}
            if sharded:
                own = {
                    part: {name: to_local(tensor) for name, tensor in named.items() if context.is_rank0 or is_dtensor(tensor)}
                    for part, named in tensors.items()
                }
                written = write_tensors(beside, own, writer=(context.rank, context.world_size))
            elif context.is_rank0:
                written = write_tensors(beside, tensors)
        manifest = {name: facts for each in context.all_gather_object(written) for name, facts in each.items()}
        return context.run_on_rank0(lambda: finish_checkpoint(beside, step=step, state=state, manifest=manifest))
    finally:
        if context.is_rank0:
            shutil.rmtree(beside, ignore_errors=True)


def begin_checkpoint(folder: Path) -> Path:
    """Create a temporary directory in `folder`, which `finish_checkpoint` makes a checkpoint.

    Raises: DiskError.
    """
    beside = folder / f"{_TEMPORARY}{os.getpid()}"
    with full_disk_named(folder, saved=bool(_generations(folder))):
        make_directories(folder)
        _remove_stale(folder)
        beside.mkdir()
    return beside


def write_tensors(
    beside: Path, tensors: Mapping[str, Mapping[str, Tensor]], *, writer: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Write one file per part of `tensors`, synced to disk; return their entries of the manifest.

    writer: (rank, number of ranks) if each rank writes its rows; tensors that only rank 0 gives are not sharded.

    Raises: DiskError.
    """
    manifest = {}
    ending = f"-{writer[0]}-of-{writer[1]}" if writer else ""
    with full_disk_named(beside.parent, saved=bool(_generations(beside.parent))):
        beside.mkdir(parents=True, exist_ok=True)  # a network file system may show it late
        for part, named in tensors.items():
            data = save(stored(named))
            write_synced(beside / f"{part}{ending}.safetensors", data)
            manifest[f"{part}{ending}.safetensors"] = _facts(data)
    return manifest


def finish_checkpoint(beside: Path, *, step: int, state: Mapping[str, Any], manifest: Mapping[str, Any]) -> Path:
    """Rename the directory `beside` to a checkpoint; remove all but the two newest.

    manifest: entries of all ranks' files.

    Raises: DiskError; UserError if the file of another rank is missing.
    """
    folder = beside.parent
    target = folder / f"step-{step:09}"
    for name in manifest:
        if not (beside / name).exists():
            raise UserError(
                f"{name}, written by another process, is missing: its machine uses a different directory",
                safe_text(beside),
                "choose an --output on a file system that all machines share",
            )
    with full_disk_named(target, saved=bool(_generations(folder))):
        data = json.dumps(state, sort_keys=True).encode()
        write_synced(beside / "state.json", data)
        manifest = {**manifest, "state.json": _facts(data)}
        write_synced(beside / "manifest.json", json.dumps(manifest, sort_keys=True).encode())
        sync_directory(beside)
        if target.exists():  # saved again after a resume: the bytes are equal, or the old ones were damaged
            shutil.rmtree(target)
        os.rename(beside, target)
        sync_directory(folder)
    for old in _generations(folder)[_GENERATIONS:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _facts(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def load_checkpoint(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest valid checkpoint; None if there are none.

    warn: called for each newer checkpoint that is damaged.

    Raises: UserError if there are checkpoints but none is valid.
    """
    generations = _generations(folder)
    for path in generations:
        try:
            return _read(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            warn(f"checkpoint {path.name} is damaged ({safe_text(error)}); trying the one before")
    if generations:
        raise UserError("no checkpoint of this run is valid", safe_text(folder), "start a new run")
    return None


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / "manifest.json").read_bytes())
    files = {}
    for name, facts in manifest.items():
        data = (path / Path(name).name).read_bytes()
        if facts != _facts(data):
            raise ValueError(f"the checksum of {name} differs")
        files[name] = data
    if others := sorted({found.name for found in path.glob("*.safetensors")} - files.keys()):
        raise ValueError(f"its manifest lacks {others[0]}")
    state = json.loads(files.pop("state.json"))
    tensors = _joined({name.removesuffix(".safetensors"): load(data) for name, data in files.items()})
    return Checkpoint(path=path, step=int(path.name.removeprefix("step-")), tensors=tensors, state=state)


def _joined(files: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The tensors by part, with the rows of several ranks concatenated."""
    parts = {}
    for name, tensors in files.items():
        found = _SHARD.fullmatch(name)
        if found is None:
            parts[name] = tensors
        elif int(found["writer"]) == 0:
            part, writers = found["part"], int(found["writers"])
            others = [files[f"{part}-{writer}-of-{writers}"] for writer in range(1, writers)]
            parts[part] = {
                key: torch.cat([piece, *(other[key] for other in others)]) if key in others[0] else piece
                for key, piece in tensors.items()
            }
    return parts


def _generations(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left; the lock of the run ensures that none is writing."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
