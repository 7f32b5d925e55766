"""Everything private of torch that the package uses. `tests/test_torch_private.py` fails if torch changes any of it."""

import functools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "TorchDispatchMode",
    "allocations",
    "clear_output_hooks",
    "flash_attention",
    "takes_device",
    "wrapper_of",
    "written_argument",
]

T = TypeVar("T", bound=Tensor)


def wrapper_of(subclass: type[T], tensor: Tensor, device: torch.device) -> T:
    """A tensor of `subclass` without storage on `device`, with the shape, strides and dtype of `tensor`."""
    return Tensor._make_wrapper_subclass(
        subclass, tensor.shape, tensor.stride(), tensor.storage_offset(), dtype=tensor.dtype, device=device
    )


@functools.cache
def takes_device(operator: Any) -> bool:
    """Whether an operator (`torch.ops.aten.empty.memory_format`) has an argument `device`."""
    return any(argument.name == "device" for argument in operator._schema.arguments)


@functools.cache
def written_argument(operator: Any) -> str | None:
    """The argument that an in-place operator writes and returns, "" if it returns nothing; None for other operators."""
    schema = operator._schema
    if not schema.is_mutable:
        return None
    if not schema.returns:
        return ""
    written = [each.name for each in schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    return written[0] if len(written) == len(schema.returns) == 1 else None


def flash_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float, is_causal: bool) -> Tensor:
    """torch's attention kernel for CUDA, (B, H, N, d) -> (B, H, N, d); tensors without data need no GPU for it."""
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal)[0]  # type: ignore[no-any-return]


def clear_output_hooks(module: nn.Module) -> None:
    """Remove the forward and backward hooks of `module`; those before the forward pass stay."""
    module._forward_hooks.clear()
    module._backward_hooks.clear()


def allocations(profiler: profile) -> list[int]:
    """The bytes of each allocation, negative if freed, in the order of time; from a profile with `profile_memory=True`.

    Raises: RuntimeError if the profile has none.
    """
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    if not events:
        raise RuntimeError("torch's profiler recorded no allocation")
    return [nbytes for _, nbytes in sorted((event.start_ns(), event.nbytes()) for event in events)]
