"""One training step: forward, loss, backward, clipping, update, without a device synchronisation."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.augment import Batch
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import ALONE, DistContext
from cctkit.engine.parallel import unsynced, wrap_ddp
from cctkit.evaluation.losses import losses
from cctkit.models.dropout import use_generator
from cctkit.training.optim import set_lr
from cctkit.training.shards import full_tensor, to_local

_NORMS_KEPT = 64
_SPIKE = 1000.0
_T = TypeVar("_T")


class EpochSums(NamedTuple, Generic[_T]):
    """Sums over the images that an epoch has trained on so far, in the order of `TrainState.sums`."""

    loss: _T  # cross entropy
    smoothed_loss: _T  # with label smoothing
    correct: _T
    images: _T


@dataclass(slots=True, kw_only=True, eq=False)
class TrainState:
    """Everything that training changes and a checkpoint holds."""

    model: nn.Module
    optimizers: list[Optimizer]
    ema: AveragedModel | None
    scaler: torch.amp.GradScaler
    generator: torch.Generator
    norms: Tensor  # gradient norms of the last steps; NaN before there are any
    sums: Tensor  # `EpochSums` of the current epoch, float64 (4,)
    diverged: Tensor  # bool: an update was skipped
    step: int = 0
    context: DistContext = ALONE
    parallel: nn.Module = field(init=False)  # the model, or its DDP wrapper
    forward: nn.Module = field(init=False)  # `parallel`, compiled or not
    ddp_warmed_up: bool = False  # see `_warm_up_ddp`

    def __post_init__(self) -> None:
        self.forward = self.parallel = self.model

    @property
    def result(self) -> nn.Module:
        """The model that is evaluated and saved: the EMA model if there is one."""
        return self.ema.module if self.ema is not None else self.model


def new_state(
    model: nn.Module,
    optimizers: list[Optimizer],
    *,
    ema: AveragedModel | None,
    policy: DevicePolicy,
    context: DistContext = ALONE,
) -> TrainState:
    """The train state before the first step."""
    generator = torch.Generator()
    use_generator(model, generator)
    state = TrainState(
        model=model,
        optimizers=optimizers,
        ema=ema,
        scaler=torch.amp.GradScaler(policy.device, enabled=policy.precision == "fp16"),
        generator=generator,
        norms=torch.full((_NORMS_KEPT,), float("nan"), device=policy.device),
        sums=torch.zeros(len(EpochSums._fields), dtype=torch.float64, device=policy.device),
        diverged=torch.zeros((), dtype=torch.bool, device=policy.device),
        context=context,
    )
    state.forward = state.parallel = wrap_ddp(model, policy, context)
    if policy.compile:
        state.forward = torch.compile(state.parallel)  # type: ignore[assignment]
    return state


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of the dropout masks of one step on one rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    config: TrainConfig,
    policy: DevicePolicy,
    lr_factor: float,
    class_weights: Tensor | None = None,
) -> None:
    """Update `state` once from `batch`.

    If the loss or a gradient is not finite, or the gradient norm exceeds 1000 times its running median, skip the update and
    set `state.diverged`.

    lr_factor: learning rate as a fraction of its peak.
    class_weights: (K,), on the device; see `losses`.
    """
    size = len(batch.labels)
    part = -(-size // config.accumulate)
    if state.parallel is not state.model and not state.ddp_warmed_up:
        _warm_up_ddp(state, batch.images[:part], policy)
    _seed_masks(state, step_seed(config.seed, state.step, state.context.rank), policy)
    set_lr(state.optimizers, lr_factor)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    sums, loss_is_finite = torch.zeros_like(state.sums), torch.ones_like(state.diverged)
    for start in range(0, size, part):
        with unsynced(state.parallel) if start + part < size else nullcontext():
            rows = slice(start, min(start + part, size))
            found = _backward(state, batch, rows, config=config, policy=policy, class_weights=class_weights)
        sums += found if batch.rank_weight else 0
        loss_is_finite &= EpochSums(*found).smoothed_loss.isfinite()
    sums, loss_is_finite = state.context.summed(sums, loss_is_finite)
    state.sums += sums
    _update(state, loss_is_finite, config=config)
    state.step += 1


def _warm_up_ddp(state: TrainState, images: Tensor, policy: DevicePolicy) -> None:
    """One throwaway forward and backward pass: DDP rebuilds its buckets after the first.

    With three ranks or more that changes the order of summation, so without it a resumed run would differ from an
    uninterrupted one.
    """
    with policy.autocast():
        logits = state.forward(images)
    logits.sum().backward()
    state.ddp_warmed_up = True


def _seed_masks(state: TrainState, seed: int, policy: DevicePolicy) -> None:
    """Seed the generator of the dropout masks: our own on the CPU, the default one on other devices."""
    if policy.device == "cpu":
        state.generator.manual_seed(seed)
    else:
        getattr(torch, policy.device).manual_seed(seed)


def _backward(
    state: TrainState,
    batch: Batch,
    part: slice,
    *,
    config: TrainConfig,
    policy: DevicePolicy,
    class_weights: Tensor | None,
) -> Tensor:
    """Accumulate the gradients of a part of the batch; return its `EpochSums` as a tensor."""
    with policy.autocast():
        logits = state.forward(batch.images[part])
    labels = batch.labels[part]
    partner = None if batch.partner_labels is None else batch.partner_labels[part]
    weight = None if batch.lam is None else batch.lam[part]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss, smoothed, correct, objective = losses(
        logits, labels, partner, weight, label_smoothing=config.label_smoothing, class_weights=class_weights
    )
    share = batch.rank_weight * len(labels) / len(batch.labels)
    state.scaler.scale(objective.mean() * share).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        sums = EpochSums(
            loss=loss.sum(), smoothed_loss=smoothed.sum(), correct=correct.sum(), images=torch.ones_like(loss).sum()
        )
        return torch.stack(sums).double()


def _update(state: TrainState, loss_is_finite: Tensor, *, config: TrainConfig) -> None:
    """Clip the gradients and step the optimizers, unless the loss or the gradients are bad."""
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    weights = [weight for weight in state.model.parameters() if weight.grad is not None]
    norm = full_tensor(torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None]))
    spike = norm > _SPIKE * state.norms.nanmedian()
    # In fp16 an overflow skips the update and lowers the scale without being a divergence: the scaler finds its scale so.
    overflow = ~norm.isfinite()
    wrong = (spike & ~overflow) | _scale_is_lost(state) if state.scaler.is_enabled() else spike | overflow
    ok = loss_is_finite & ~wrong
    state.diverged |= ~ok
    state.norms[state.step % _NORMS_KEPT] = norm
    if config.clip_grad is not None:
        torch.nn.utils.clip_grads_with_norm_(weights, config.clip_grad, norm)
    _step_where(state.optimizers, ok & ~overflow)
    state.scaler.update()
    if state.ema is not None:
        assert config.ema is not None
        _average(state.ema, state.model, decay=ema_decay(config.ema, state.step))


def _scale_is_lost(state: TrainState) -> Tensor:
    """Whether overflows have lowered the scale below 1: bool, on the device."""
    return state.scaler.scale(torch.ones_like(state.norms[0])) < 1


def _step_where(optimizers: list[Optimizer], ok: Tensor) -> None:
    """Step the optimizers if `ok` (bool, on the device), without waiting for the device to know."""
    if ok.device.type == "cpu":
        if ok:
            for optimizer in optimizers:
                optimizer.step()
        return
    for optimizer in optimizers:
        if optimizer.defaults.get("fused"):
            _step_fused_where(optimizer, ok)
        else:
            _step_and_put_back(optimizer, ok)


def _step_fused_where(optimizer: Optimizer, ok: Tensor) -> None:
    """torch's fused kernels read `found_inf` themselves, which `GradScaler.step` relies on too."""
    optimizer.found_inf = (~ok).float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.found_inf  # type: ignore[attr-defined]


def _step_and_put_back(optimizer: Optimizer, ok: Tensor) -> None:
    """Step, then restore weights and moments if not `ok`; moments that the step has created become zero."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    before = [weight.detach().clone() for weight in weights]
    moments = [{key: value.clone() for key, value in optimizer.state[weight].items()} for weight in weights]
    optimizer.step()
    with torch.no_grad():
        for weight, old, old_moments in zip(weights, before, moments, strict=True):
            weight.copy_(torch.where(ok, weight, old))
            for key, value in optimizer.state[weight].items():
                value.copy_(torch.where(ok, value, old_moments.get(key, 0.0)))


def ema_decay(decay: float, step: int) -> float:
    """The EMA decay at `step` (from 0): min(decay, (1 + step) / (10 + step)), so that the first weights fade quickly.

    Source: TensorFlow, `tf.train.ExponentialMovingAverage` with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def _average(ema: AveragedModel, model: nn.Module, *, decay: float) -> None:
    """`AveragedModel.update_parameters` without its device synchronisation in every step."""
    averaged = [to_local(tensor) for tensor in (*ema.module.parameters(), *ema.module.buffers())]
    current = [to_local(tensor) for tensor in (*model.parameters(), *model.buffers())]
    get_ema_multi_avg_fn(decay)(averaged, current, ema.n_averaged)  # type: ignore[no-untyped-call]
    ema.n_averaged += 1
