"""Predicts the memory of a training step: runs the trainer's step on tensors without data and counts the living storages.

Memory that an operator allocates and frees internally is not counted. A test compares the prediction with the allocator's
figures of a real step.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cctkit.config.fields import choices_of
from cctkit.config.settings import TrainConfig, settings
from cctkit.config.size import Size
from cctkit.data.epoch.augment import Batch
from cctkit.engine.device import DevicePolicy, accelerator_precision, available_device, choose_policy
from cctkit.errors import UserError
from cctkit.models.attention import ATTENTION_IMPLS, HasAttentionImpl
from cctkit.models.dropout import Dropout
from cctkit.summary.clone import without_data
from cctkit.summary.shape_only import MemoryTracker
from cctkit.summary.walk import first_line
from cctkit.text import safe_text
from cctkit.torch_private import flash_attention
from cctkit.training.optim import make_optimizers
from cctkit.training.step import TrainState, new_state, train_step

_CUDA_BLOCK_BYTES = 512  # what torch's caching allocator rounds up to (c10/cuda/CUDACachingAllocator.h)
_LARGEST_BATCH = 2**20
_CHOICES = {item.name: choices_of(hint) for item, hint in settings()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a training step after the first. The parts do not add up to the peak: activations are freed while gradients
    are allocated.

    peak_bytes: the most that is allocated at one time.
    weights_bytes: weights and buffers.
    gradients_bytes: gradients of all trainable weights.
    optimizer_bytes: state of the optimizer.
    activations_bytes: everything else that is allocated after the forward pass, the images included.
    """

    device: str
    dtype: str
    optimizer: str
    attention: str
    batch_size: int
    peak_bytes: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int


def predict_memory(
    model: nn.Module,
    *,
    image_size: Size,
    batch_size: int,
    policy: DevicePolicy,
    optimizer: str = "adamw",
    channels: int = 3,
) -> Memory:
    """The memory of a training step of `model` on images (batch_size, channels, height, width), without computing it.

    Raises: UserError if a training step of the model fails.
    """
    live = MemoryTracker(rounded_to=1 if policy.device == "cpu" else _CUDA_BLOCK_BYTES)
    kernels = contextlib.nullcontext() if policy.device == "cpu" else _AcceleratorKernels()
    config = TrainConfig.from_flat({"optimizer": optimizer})
    here = replace(policy, device="cpu", compile=False)
    with live, kernels, torch.inference_mode(False), torch.enable_grad():
        clone = without_data(model, "cpu").train()
        policy.set_impls(clone)
        weights = live.bytes
        state = new_state(clone, make_optimizers(clone, config), ema=None, policy=here)
        _fill_optimizers(state)
        resting = live.bytes
        after_forward: list[int] = []
        clone.register_forward_hook(lambda *_: after_forward.append(live.bytes))
        batch = _batch((batch_size, channels, *image_size), policy)
        live.peak = live.bytes
        try:
            train_step(state, batch, config=config, policy=here, lr_factor=1.0)
        except UserError:
            raise
        except Exception as error:
            what = f"the memory of this model cannot be predicted: {first_line(error)}"
            raise UserError(what, type(model).__name__, "use --no-memory, in Python memory=False") from error
    return Memory(
        device=policy.device,
        dtype=policy.precision,
        optimizer=optimizer,
        attention=policy.attention,
        batch_size=batch_size,
        peak_bytes=live.peak,
        weights_bytes=weights,
        gradients_bytes=sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad),
        optimizer_bytes=resting - weights,
        activations_bytes=after_forward[0] - resting,
    )


def _batch(shape: tuple[int, int, int, int], policy: DevicePolicy) -> Batch:
    images = torch.empty(shape, memory_format=torch.channels_last if policy.channels_last else torch.contiguous_format)
    return Batch(images=images, labels=torch.zeros(shape[0], dtype=torch.int64))


def memory_policy(
    *, device: str = "auto", dtype: str = "auto", attention: str = "auto", threads: int | None = None, dropout: bool = True
) -> DevicePolicy:
    """The policy that training would use, on a device that this machine may not have. For a CPU it may be measured first.

    dropout: whether attention dropout is on.

    Raises: UserError for an invalid choice.
    """
    kind = memory_device(device)
    _check(dtype, "--dtype", _CHOICES["precision"])
    _check(attention, "--attention", ("auto", *ATTENTION_IMPLS))
    if kind == "cpu":
        policy = choose_policy(device="cpu", precision=dtype, threads=threads, dropout=dropout)
    else:
        chosen = accelerator_precision(kind) if dtype == "auto" else dtype
        policy = DevicePolicy(device=kind, precision=chosen, attention="fused", attention_in_evaluation="fused", threads=1)  # type: ignore[arg-type]
    return policy if attention == "auto" else replace(policy, attention=attention)  # type: ignore[arg-type]


def memory_device(wish: str) -> str:
    """The device to predict for; "auto" is that of this machine.

    Raises: UserError for an invalid choice.
    """
    _check(wish, "--device", _CHOICES["device"])
    return available_device() if wish == "auto" else wish


def _check(wish: str, flag: str, choices: Sequence[str]) -> None:
    if wish not in choices:
        raise UserError(f"'{safe_text(wish)}' is not one of {', '.join(choices)}", flag)


def drops_attention(model: nn.Module) -> bool:
    """Whether `model` has attention dropout."""
    drops = (getattr(module, "attn_drop", None) for module in model.modules() if isinstance(module, HasAttentionImpl))
    return any(isinstance(drop, Dropout) and drop.p > 0 for drop in drops)


def largest_batch(peak_bytes: Callable[[int], int], limit_bytes: int) -> int:
    """The largest batch size whose step needs at most `limit_bytes`, 0 if one image needs more.

    peak_bytes: the memory by batch size. It is linear from some size on, so the next guess follows from the last two.
    """
    low, low_bytes = 1, peak_bytes(1)
    if low_bytes > limit_bytes:
        return 0
    high, high_bytes = 0, 0  # the smallest size known to be too large
    guess = 64
    while high == 0 or high - low > 1:
        guess = max(low + 1, min(guess, high - 1 if high else _LARGEST_BATCH))
        needed = peak_bytes(guess)
        slope = max(1, (needed - low_bytes) / (guess - low))
        if needed <= limit_bytes:
            low, low_bytes = guess, needed
            if low == _LARGEST_BATCH:
                break
        else:
            high, high_bytes = guess, needed
            slope = (high_bytes - low_bytes) / (high - low)
        guess = low + int((limit_bytes - low_bytes) / slope)
    return low


def _fill_optimizers(state: TrainState) -> None:
    """The optimizers' state as after a first step."""
    for weight in state.model.parameters():
        if weight.requires_grad:
            weight.grad = torch.empty_like(weight)
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()


class _AcceleratorKernels(TorchFunctionMode):
    """Replaces the CPU's fused attention by CUDA's, which keeps no matrix of weights.

    The calls inside nn.MultiheadAttention are not seen; for those the CPU's is counted.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            func = _flash_attention
        return func(*args, **(kwargs or {}))


def _flash_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """torch's kernel for CUDA, with the signature of `scaled_dot_product_attention`. A mask changes no size."""
    del attn_mask
    return flash_attention(q, k, v, dropout_p, is_causal)
