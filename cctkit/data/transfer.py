"""Copy tensors from the host to the device without waiting for the device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy `tensor` to `device`, or return it if it is there already.

    Copies to CUDA use pinned memory: a plain copy would synchronize with the device.
    """
    kind = torch.device(device).type
    if tensor.device.type == kind:
        return tensor
    return (tensor.pin_memory() if kind == "cuda" else tensor).to(device, non_blocking=True)
