"""Copies a model without its data: the model itself stays untouched, and a copy of any size costs nothing."""

import copy

import torch
from torch import Tensor, nn

from cctkit.torch_private import clear_output_hooks


def without_data(model: nn.Module, device: str) -> nn.Module:
    """A copy with empty weights and buffers on `device`: "meta", or any within a `shape_only.MemoryTracker`.

    Train and eval mode, shared modules and shared weights are kept. Weights of convolutions are channels_last as in training,
    except on meta. Forward and backward hooks are removed: they must not report a run that did not happen.
    """
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = _empty(tensor, device)
        trained = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if trained else empty
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Generator):  # cannot be copied, and is not used
                memo[id(value)] = value
    clone = copy.deepcopy(model, memo)
    for module in clone.modules():
        clear_output_hooks(module)
    return clone


def _empty(tensor: Tensor, device: str) -> Tensor:
    in_channels_last = tensor.ndim == 4 and device != "meta"
    layout = torch.channels_last if in_channels_last else torch.contiguous_format
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device, memory_format=layout)
