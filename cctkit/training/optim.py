"""The optimizers of a run: AdamW, or Muon for the blocks' matrices with AdamW beside it."""

from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from cctkit.config.settings import ModelConfig, TrainConfig
from cctkit.models.depth import depth_of, is_embedding, is_in_block

_Kind = Literal["decayed", "plain", "muon"]


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """AdamW over all trainable weights, or [AdamW, Muon]. Every group carries its peak as `peak_lr`.

    Norms, biases and embeddings are not decayed, unless `decay_all`, as examples/main.py of the published repository does,
    or `decay_embeddings` for the last: its train.py takes timm's groups (timm/optim/_param_groups.py), which spare vectors,
    biases and what a model's `no_weight_decay()` names, a method that the published models lack. Muon (Jordan et al. 2024)
    takes the matrices of the blocks. The peak of a weight at depth `d` (`models.depth`) is
    `layer_decay ** (num_layers + 1 - d)` times the run's (Bao et al. 2022, BEiT, optim_factory.py): the head's is the run's.
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
    """Every group's learning rate: its own peak times the schedule's factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def _depth(name: str, model: nn.Module) -> tuple[int, int]:
    """The depth of a weight, and that of the head; in a model that is none of ours all is head."""
    config: object = getattr(model, "config", None)
    return (depth_of(name, config), config.num_layers + 1) if isinstance(config, ModelConfig) else (0, 0)


def _kind(name: str, weight: nn.Parameter, config: TrainConfig, *, in_block: bool) -> _Kind:
    """Who updates the weight, and whether it is decayed."""
    if config.optimizer == "muon" and in_block and weight.ndim == 2:
        return "muon"
    spared = weight.ndim < 2 or (is_embedding(name) and not config.decay_embeddings)
    return "decayed" if config.decay_all or not spared else "plain"
