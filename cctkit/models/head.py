"""The last layer, which computes logits in float32 at any precision of the layers before it."""

import torch
from torch import Tensor, nn


def float32_logits(head: nn.Module, x: Tensor) -> Tensor:
    """(B, D) -> (B, K) by `head`, outside of autocast and in the format of its weights.

    In bf16 the two largest logits of one image in a hundred are equal, and the lower class number would win.
    """
    if not torch.amp.is_autocast_available(x.device.type):  # without data there is none
        return head(x)  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return head(x.to(next(head.parameters()).dtype))  # type: ignore[no-any-return]
