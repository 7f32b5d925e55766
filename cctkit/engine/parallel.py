"""torch's engines around a model of several ranks: DDP, where each holds all of it, or FSDP2, where each holds a part."""

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


def wrap_ddp(model: nn.Module, policy: DevicePolicy, ranks: DistContext) -> nn.Module:
    """`model` with its gradients averaged over the ranks; one that is shared out sees to that itself."""
    if ranks.size == 1 or is_sharded(model):
        return model
    device_ids = [torch.cuda.current_device()] if policy.device == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, process_group=ranks.device_group, gradient_as_bucket_view=True)


def uses_fsdp(config: TrainConfig, ranks: DistContext) -> bool:
    """Whether each rank holds a part of the weights."""
    return config.shard and ranks.size > 1


def to_device_or_shard(
    model: nn.Module, *, config: TrainConfig, policy: DevicePolicy, ranks: DistContext
) -> tuple[nn.Module, AveragedModel | None]:
    """`model`, which is on the CPU, and the moving average of its weights where there is one: on the device, or shared out."""
    if uses_fsdp(config, ranks):
        ema = _average(model, config, device=None)
        for each in (model, ema.module) if ema is not None else (model,):
            _share_out(each, policy, ranks)
        return model, ema
    model = policy.prepare(model)
    return model, _average(model, config, device=torch.device(policy.device))


def _average(model: nn.Module, config: TrainConfig, *, device: torch.device | None) -> AveragedModel | None:
    if config.ema is None:
        return None
    return AveragedModel(model, device=device, use_buffers=True)


def _share_out(model: nn.Module, policy: DevicePolicy, ranks: DistContext) -> None:
    """Share the weights of `model`, which is on the CPU, out over the ranks and their devices, in place.

    Each block, and what is outside of them, is gathered to compute and let go of afterwards; the whole model is never on a
    device. Weights lie in the plain memory format, the only one that FSDP2 takes; images are channels_last as ever. The
    number format is the policy's autocast, as without sharding, so that an evaluation repeats to the last digit.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    policy.set_paths(model)
    group = cast(dist.ProcessGroup, ranks.device_group or dist.group.WORLD)
    mesh = DeviceMesh.from_group(group, policy.device)
    for part in (*blocks_of(model), model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has shared out the weights of `model`. Importing it takes over a second, hence not by its class."""
    return hasattr(model, "set_requires_gradient_sync")


@contextlib.contextmanager
def unsynced(model: nn.Module) -> Iterator[None]:
    """While gradients are only accumulated: without telling them to the other ranks."""
    if is_sharded(model):
        cast(Any, model).set_requires_gradient_sync(False)
        try:
            yield
        finally:
            cast(Any, model).set_requires_gradient_sync(True)
        return
    with model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
        yield
