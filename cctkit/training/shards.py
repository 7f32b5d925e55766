"""Tensors that FSDP2 has sharded: local part, full tensor, and sharding another tensor alike.

They are DTensors, recognised by their methods, because importing the class takes over a second.
"""

from typing import Any, cast

from torch import Tensor


def is_dtensor(tensor: Tensor) -> bool:
    """Whether `tensor` is sharded: each rank has some of its rows."""
    return hasattr(tensor, "full_tensor")


def to_local(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor, sharing its memory; any other tensor unchanged."""
    return cast(Any, tensor).to_local() if is_dtensor(tensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered on every rank (all ranks call it); any other tensor unchanged."""
    return cast(Any, tensor).full_tensor() if is_dtensor(tensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """`tensor`, of which every rank has all rows, sharded as `other` is; unchanged if `other` is not sharded."""
    if not is_dtensor(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    like = cast(Any, other)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # each rank takes its rows
