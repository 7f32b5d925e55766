"""The optimizers of a run: AdamW, or Muon for the matrices of the blocks and AdamW for the rest."""

from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from cctkit.config.model import ModelConfig
from cctkit.config.settings import TrainConfig
from cctkit.models.depth import depth_of, is_embedding, is_in_block

_Kind = Literal["decayed", "plain", "muon"]


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """[AdamW] over all trainable weights, or [AdamW, Muon]. The peak learning rate of every group is its `peak_lr`.

    Weight decay: not for norms, biases and embeddings. With `decay_all` for all weights, as examples/main.py of the
    published repository does. With `decay_embeddings` for embeddings too, as its train.py does: timm's groups
    (timm/optim/_param_groups.py) exclude vectors, biases and the names in `no_weight_decay()`, which the published models
    do not define.

    Muon (Jordan et al. 2024): for the matrices of the blocks.

    Layer decay: the peak of a weight at depth `d` (`models.depth`) is `layer_decay ** (num_layers + 1 - d)` times that of the
    head (Bao et al. 2022, BEiT, optim_factory.py).
    """
    weights: dict[tuple[_Kind, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            depth, head = _depth(name, model)
            scale = config.layer_decay ** (head - depth)
            weights.setdefault((_kind(name, weight, config, in_block=head > 0 and is_in_block(name)), scale), []).append(weight)

    def groups(kind: _Kind, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        chosen = {scale: params for (of_kind, scale), params in weights.items() if of_kind == kind}
        return [
            {"params": params, "lr": lr * scale, "peak_lr": lr * scale, "weight_decay": weight_decay}
            for scale, params in chosen.items()
        ]

    adamw = groups("decayed", config.lr, config.weight_decay) + groups("plain", config.lr, 0.0)
    muon = groups("muon", config.muon_lr, config.weight_decay)
    optimizers: list[Optimizer] = [torch.optim.AdamW(adamw, lr=config.lr, fused=True)]
    return [*optimizers, torch.optim.Muon(muon, lr=config.muon_lr)] if muon else optimizers


def set_lr(optimizers: list[Optimizer], factor: float) -> None:
    """Set the learning rate of every group to its peak times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def _depth(name: str, model: nn.Module) -> tuple[int, int]:
    """The depth of a weight and of the head; (0, 0) in a model that is not cctkit's."""
    config: object = getattr(model, "config", None)
    return (depth_of(name, config), config.num_layers + 1) if isinstance(config, ModelConfig) else (0, 0)


def _kind(name: str, weight: nn.Parameter, config: TrainConfig, *, in_block: bool) -> _Kind:
    """Which optimizer updates the weight, and whether with weight decay."""
    if config.optimizer == "muon" and in_block and weight.ndim == 2:
        return "muon"
    excluded = weight.ndim < 2 or (is_embedding(name) and not config.decay_embeddings)
    return "decayed" if config.decay_all or not excluded else "plain"
