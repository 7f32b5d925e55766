"""The last layer, which computes logits in float32 whatever the precision of the other layers."""

import torch
from torch import Tensor, nn


def float32_logits(head: nn.Module, x: Tensor) -> Tensor:
    """Apply `head` (B, D) -> (B, K) outside autocast, in the dtype of its weights.

    In bf16 the two largest logits of 1% of the images are equal, and the smaller class index would win.
    """
    if not torch.amp.is_autocast_available(x.device.type):  # without data there is none
        return head(x)  # type: ignore[no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return head(x.to(next(head.parameters()).dtype))  # type: ignore[no-any-return]
