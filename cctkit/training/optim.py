"""The optimizers of a run: AdamW, or Muon for the blocks' matrices with AdamW beside it."""

import torch
from torch import nn
from torch.optim import Optimizer

from cctkit.config import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """AdamW over all trainable weights, or [AdamW, Muon]. Every group carries its peak as `peak_lr`.

    Norms, biases and embeddings are not decayed, unless `decay_all`, as the published script does. Muon (Jordan et al.
    2024) takes the matrices of the transformer blocks.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if config.optimizer == "muon" and weight.ndim == 2 and ".blocks." in f".{name}":
            matrices.append(weight)
        elif config.decay_all or (weight.ndim > 1 and not _is_embedding(name)):
            decayed.append(weight)
        else:
            plain.append(weight)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = [torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_lr(optimizers: list[Optimizer], factor: float) -> None:
    """Every group's learning rate: its own peak times the schedule's factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def _is_embedding(name: str) -> bool:
    """Whether a weight is a position or class embedding, of our models or torchvision's."""
    return name.rpartition(".")[2] in {"positional_emb", "class_emb", "pos_embedding", "class_token"}
