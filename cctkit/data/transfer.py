"""From the host to the device, without waiting for what the device is still doing."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`; itself where it is there already.

    To CUDA through pinned memory: a plain copy would first let the device finish all that it was given.
    """
    kind = torch.device(device).type
    if tensor.device.type == kind:
        return tensor
    return (tensor.pin_memory() if kind == "cuda" else tensor).to(device, non_blocking=True)
