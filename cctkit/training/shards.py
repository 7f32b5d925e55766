"""Tensors that are shared out over ranks: the own part, the whole, and their checkpoint, to which each rank writes its part.

What is shared out is a DTensor, known here by what it can do: importing that class takes over a second.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from cctkit.engine.distributed import DistContext
from cctkit.training.checkpoint import begin_checkpoint, discarded, finish_checkpoint, write_tensors


def is_dtensor(tensor: Tensor) -> bool:
    """Whether each rank has a part of `tensor`: some of its rows."""
    return hasattr(tensor, "full_tensor")


def to_local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is shared out, in the same memory; any other as it is."""
    return cast(Any, tensor).to_local() if is_dtensor(tensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that is shared out, gathered on every rank, who all have to call it; any other as it is."""
    return cast(Any, tensor).full_tensor() if is_dtensor(tensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """The whole `tensor`, which every rank has, shared out as `other` is, if that is."""
    if not is_dtensor(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    like = cast(Any, other)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # each rank cuts out its own


def save_shards(
    folder: Path, *, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], ranks: DistContext
) -> None:
    """`save_checkpoint` of all ranks together: each writes its parts, the first one what all have, and at the end the name.

    The checkpoint is one only when all parts are on the disk; read again, it is that of one process.

    Raises: DiskError; UserError where a rank's machine does not see the directory.
    """
    beside = Path(ranks.run_on_rank0(lambda: str(begin_checkpoint(folder))))
    with discarded(beside) if ranks.first else contextlib.nullcontext():
        with ranks.sync_errors():
            own = {
                part: {name: to_local(tensor) for name, tensor in named.items() if ranks.first or is_dtensor(tensor)}
                for part, named in tensors.items()
            }
            written = write_tensors(beside, own, writer=(ranks.rank, ranks.size))
        manifest = {name: facts for each in ranks.all_gather_object(written) for name, facts in each.items()}
        ranks.run_on_rank0(lambda: str(finish_checkpoint(beside, step=step, state=state, manifest=manifest)))
