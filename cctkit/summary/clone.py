"""A copy of a model without its data, so that the model itself is never touched and a copy of any size costs nothing."""

import copy

import torch
from torch import Tensor, nn

from cctkit.torch_private import clear_output_hooks


def without_data(model: nn.Module, device: str) -> nn.Module:
    """The model with empty weights and buffers on `device` ("meta", or any in the mode of `dataless.MemoryTracker`).

    Modes, shared modules and shared weights stay as they are; convolutions' weights are channels_last on devices other
    than meta, as in training. Hooks that look at outputs are left out: they are the owner's and would tell him of a run
    that never was.
    """
    memo: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = _empty(tensor, device)
        trained = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if trained else empty
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Generator):  # cannot be copied, and is not drawn from
                memo[id(value)] = value
    clone = copy.deepcopy(model, memo)
    for module in clone.modules():
        clear_output_hooks(module)
    return clone


def _empty(tensor: Tensor, device: str) -> Tensor:
    in_channels_last = tensor.ndim == 4 and device != "meta"
    layout = torch.channels_last if in_channels_last else torch.contiguous_format
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device, memory_format=layout)
