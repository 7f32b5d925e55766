"""Wraps a model for several ranks: DDP, with a full copy per rank, or FSDP2, with a shard per rank."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from cctkit.config.settings import TrainConfig
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import DistContext
from cctkit.models.depth import blocks_of


def wrap_ddp(model: nn.Module, policy: DevicePolicy, context: DistContext) -> nn.Module:
    """`model` wrapped in DDP if there are several ranks; FSDP2 averages gradients itself."""
    if context.world_size == 1 or is_sharded(model):
        return model
    device_ids = [torch.cuda.current_device()] if policy.device == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=device_ids, process_group=context.device_group, gradient_as_bucket_view=True
    )


def uses_fsdp(config: TrainConfig, context: DistContext) -> bool:
    """Whether the model is sharded with FSDP2."""
    return config.shard and context.world_size > 1


def to_device_or_shard(
    model: nn.Module, *, config: TrainConfig, policy: DevicePolicy, context: DistContext
) -> tuple[nn.Module, AveragedModel | None]:
    """Move `model` (on the CPU) and its EMA copy, if there is one, to the device, or shard them."""
    if uses_fsdp(config, context):
        ema = _ema_of(model, config, device=None)
        for each in (model, ema.module) if ema is not None else (model,):
            _shard(each, policy, context)
        return model, ema
    model = policy.prepare(model)
    return model, _ema_of(model, config, device=torch.device(policy.device))


def _ema_of(model: nn.Module, config: TrainConfig, *, device: torch.device | None) -> AveragedModel | None:
    if config.ema is None:
        return None
    return AveragedModel(model, device=device, use_buffers=True)


def _shard(model: nn.Module, policy: DevicePolicy, context: DistContext) -> None:
    """Shard `model` (on the CPU) over the ranks and their devices with FSDP2, in place.

    Each block, and the layers outside the blocks together, are gathered before use and freed after it. Weights are
    contiguous, because FSDP2 does not support channels_last. The precision is that of autocast, as without sharding, so that
    evaluations repeat exactly.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    policy.set_impls(model)
    group = cast(dist.ProcessGroup, context.device_group or dist.group.WORLD)
    mesh = DeviceMesh.from_group(group, policy.device)
    for part in (*blocks_of(model), model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has sharded `model`. Not checked by its class, because importing that takes over a second."""
    return hasattr(model, "set_requires_gradient_sync")


@contextlib.contextmanager
def unsynced(model: nn.Module) -> Iterator[None]:
    """Accumulate gradients without averaging them over the ranks."""
    if is_sharded(model):
        cast(Any, model).set_requires_gradient_sync(False)
        try:
            yield
        finally:
            cast(Any, model).set_requires_gradient_sync(True)
        return
    with model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
        yield
