"""Checkpoints: directories of safetensors and JSON, written beside and renamed into place; two generations are kept.

A checkpoint of several writers has a file of each for every one of its parts: whose tensors are pieces, one below the other.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cctkit.engine.distributed import ALONE, DistContext
from cctkit.errors import UserError
from cctkit.files import full_disk_named, sync_directory, write_synced
from cctkit.models.weights import stored
from cctkit.text import safe_text
from cctkit.training.shards import is_dtensor, to_local

_GENERATIONS = 2
_NAME = re.compile(r"step-(\d{9})")
_TEMPORARY = ".tmp-"
_PIECES = re.compile(r"(?P<part>[a-z]+)-(?P<writer>\d{1,6})-of-(?P<writers>\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A checkpoint as read: the tensors by file, and the JSON values."""

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
    ranks: DistContext = ALONE,
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
    beside = ranks.run_on_rank0(lambda: begin_checkpoint(folder))
    with discarded(beside) if ranks.first else contextlib.nullcontext():
        with ranks.sync_errors():
            written = {}
            if sharded:
                own = {
                    part: {name: to_local(tensor) for name, tensor in named.items() if ranks.first or is_dtensor(tensor)}
                    for part, named in tensors.items()
                }
                written = write_tensors(beside, own, writer=(ranks.rank, ranks.size))
            elif ranks.first:
                written = write_tensors(beside, tensors)
        manifest = {name: facts for each in ranks.all_gather_object(written) for name, facts in each.items()}
        return ranks.run_on_rank0(lambda: finish_checkpoint(beside, step=step, state=state, manifest=manifest))


def begin_checkpoint(folder: Path) -> Path:
    """A directory beside the checkpoints of `folder` to write one in; until `finish_checkpoint` it counts for nothing.

    Raises: DiskError.
    """
    beside = folder / f"{_TEMPORARY}{os.getpid()}"
    with full_disk_named(folder, saved=bool(_generations(folder))):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        beside.mkdir()
    return beside


def write_tensors(
    beside: Path, tensors: Mapping[str, Mapping[str, Tensor]], *, writer: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Write tensors by part, and bring them to the disk; what the manifest has to say of the files.

    writer: of several, which one and of how many: the tensors are then pieces, or whole ones that the first alone gives.

    Raises: DiskError.
    """
    manifest = {}
    ending = f"-{writer[0]}-of-{writer[1]}" if writer else ""
    with full_disk_named(beside.parent, saved=bool(_generations(beside.parent))):
        beside.mkdir(parents=True, exist_ok=True)  # a network's file system may be late to tell of it
        for part, named in tensors.items():
            data = save(stored(named))
            write_synced(beside / f"{part}{ending}.safetensors", data)
            manifest[f"{part}{ending}.safetensors"] = _facts(data)
    return manifest


def finish_checkpoint(beside: Path, *, step: int, state: Mapping[str, Any], manifest: Mapping[str, Any]) -> Path:
    """Make what was written `beside` a checkpoint, by a rename at the end, and drop all but the two newest generations.

    manifest: of the tensors' files, by all who wrote some.

    Raises: DiskError; UserError where a file of another writer is not there.
    """
    folder = beside.parent
    target = folder / f"step-{step:09}"
    for name in manifest:
        if not (beside / name).exists():
            raise UserError(
                f"{name}, which another process has written, is not there: its machine sees another directory",
                safe_text(beside),
                "put the run (--output) where all machines see the same",
            )
    with full_disk_named(target, saved=bool(_generations(folder))):
        data = json.dumps(state, sort_keys=True).encode()
        write_synced(beside / "state.json", data)
        manifest = {**manifest, "state.json": _facts(data)}
        write_synced(beside / "manifest.json", json.dumps(manifest, sort_keys=True).encode())
        sync_directory(beside)
        if target.exists():  # the same step again, after a resume: the newer bytes are the same, or the old were spoilt
            shutil.rmtree(target)
        os.rename(beside, target)
        sync_directory(folder)
    for old in _generations(folder)[_GENERATIONS:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


@contextlib.contextmanager
def discarded(beside: Path) -> Iterator[None]:
    """Leave nothing of `beside` at the end; a finished checkpoint is elsewhere by then."""
    try:
        yield
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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
    tensors = _joined({name.removesuffix(".safetensors"): load(data) for name, data in files.items()})
    return Checkpoint(path=path, step=int(path.name.removeprefix("step-")), tensors=tensors, state=state)


def _joined(files: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The tensors by part, with the pieces of several writers put together in their order."""
    parts = {}
    for name, tensors in files.items():
        found = _PIECES.fullmatch(name)
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
    """The checkpoints that are there, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _remove_stale(folder: Path) -> None:
    """What writers left that were killed; the run's lock says that none is at work."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
