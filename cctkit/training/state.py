"""Train state and history to and from a checkpoint: named tensors and JSON values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cctkit.errors import UserError
from cctkit.runs.runfiles import NUMBER, Shape, fault
from cctkit.text import safe_text
from cctkit.training.checkpoint import Checkpoint
from cctkit.training.shards import full_tensor, shard_like
from cctkit.training.step import TrainState

_VALUES: dict[str, Shape] = {
    "step": int,
    "epochs_done": int,
    "best_epoch": int,
    "scaler": dict,
}
_LATER_VALUES: dict[str, Shape] = {
    "best_loss": (NUMBER, None),
    "improved_epoch": int,
    "best_score": NUMBER,
    "best_top1_percent": NUMBER,
    "temperature": (NUMBER, None),
    "best_temperature": (NUMBER, None),
}
"""Missing in older checkpoints, which have `best_top1_percent` in place of `best_score`."""
_HISTORY = ("epochs_done", "best_epoch", "best_score", "best_loss", "improved_epoch", "temperature", "best_temperature")
_SCORES: dict[str, tuple[str, int]] = {
    "top1": ("val_top1_percent", 1),
    "balanced": ("val_balanced_accuracy_percent", 1),
    "loss": ("val_loss", -1),
}
"""By `choose_by`: the figure of an epoch, and 1 if higher is better, otherwise -1."""


@dataclass(slots=True, kw_only=True, eq=False)
class History:
    """Epochs done so far, and the best one by a figure of the validation images, ties by validation loss.

    best_epoch: 0 if there are no validation images.
    best_score: the figure of the best epoch, negative if lower is better.
    best_loss: None if unknown.
    improved_epoch: the last epoch that raised the score, from which early stopping counts.
    temperature, best_temperature: of the newest and the best epoch, see `fit_temperature`; None if there is none.
    best: weights of the best epoch.
    """

    epochs_done: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_loss: float | None = None
    improved_epoch: int = 0
    temperature: float | None = None
    best_temperature: float | None = None
    best: dict[str, Tensor] | None = None

    @property
    def newest_is_best(self) -> bool:
        """Whether to keep the newest epoch: always without validation images."""
        return self.best_epoch in (0, self.epochs_done)

    @property
    def kept_temperature(self) -> float | None:
        """That of the epoch whose weights are the result."""
        return self.best_temperature if self.best_epoch else self.temperature

    def add(self, record: Mapping[str, Any], model: nn.Module, *, choose_by: str = "top1") -> None:
        """Add the epoch of `record`; keep the weights of `model` if they are the best so far.

        choose_by: top1, balanced or loss.
        """
        self.epochs_done = record["epoch"]
        self.temperature = record.get("val_temperature")
        key, sign = _SCORES[choose_by]
        value, loss = record.get(key), record.get("val_loss")
        if value is None:
            return
        score, is_first = sign * value, self.best_epoch == 0
        if score < self.best_score and not is_first:
            return
        if score > self.best_score or is_first:
            self.improved_epoch = self.epochs_done
        elif loss is None or self.best_loss is None or loss >= self.best_loss:
            return
        self.best_epoch, self.best_score, self.best_loss = self.epochs_done, score, loss
        self.best_temperature = self.temperature
        self.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def pack(state: TrainState, history: History) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors of a checkpoint, by file, and its JSON values."""
    tensors = {
        "model": state.model.state_dict(),
        "optimizer": _optimizer_tensors(state.optimizers),
        "progress": {"norms": state.norms, "sums": state.sums},
    }
    if state.ema is not None:
        tensors["ema"] = state.ema.state_dict()
    if history.best is not None:
        tensors["best"] = history.best
    values = {"step": state.step, "scaler": state.scaler.state_dict()}
    return tensors, values | {name: getattr(history, name) for name in _HISTORY}


def unpack(checkpoint: Checkpoint, state: TrainState, *, steps: int) -> History:
    """Load `checkpoint` into `state`; return the history.

    steps: steps per epoch of the run.

    Raises: UserError if the checkpoint is of a different run.
    """
    try:
        return _unpack(checkpoint, state, steps)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"the checkpoint does not fit the run's settings: {safe_text(error)}",
            safe_text(checkpoint.path),
            "restore config.json as it was, or start a new run",
        ) from error


def _unpack(checkpoint: Checkpoint, state: TrainState, steps: int) -> History:
    tensors, values = checkpoint.tensors, checkpoint.state
    later = {key: shape for key, shape in _LATER_VALUES.items() if key in values}
    if problem := fault(values, _VALUES | later):
        raise ValueError(problem)
    if not 0 <= values["step"] - values["epochs_done"] * steps <= steps:
        raise ValueError(f"step {values['step']} is not in epoch {values['epochs_done'] + 1} of {steps} steps")
    state.model.load_state_dict(_shard_like(tensors["model"], state.model))
    if state.ema is not None:
        state.ema.load_state_dict(_shard_like(tensors["ema"], state.ema))
    _load_optimizers(state.optimizers, tensors["optimizer"])
    state.norms.copy_(tensors["progress"]["norms"])
    state.sums.copy_(tensors["progress"]["sums"])
    state.scaler.load_state_dict(values["scaler"])
    state.step = values["step"]
    older = {"improved_epoch": values["best_epoch"], "best_score": values.get("best_top1_percent", -1.0)}
    history = older | {name: values[name] for name in _HISTORY if name in values}
    return History(**history, best=_shard_like(tensors["best"], state.result) if "best" in tensors else None)


def _shard_like(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """`tensors`, each sharded as the tensor of the same name in `module`."""
    own = module.state_dict()
    return {name: shard_like(tensor, own.get(name, tensor)) for name, tensor in tensors.items()}


def result_tensors(state: TrainState) -> dict[str, Tensor]:
    """The weights of the result, by their published names, on rank 0. All ranks call it."""
    return whole_tensors(state, state.result.state_dict())


def whole_tensors(state: TrainState, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, gathered and on the CPU, on rank 0. All ranks call it."""
    gathered = ((name, full_tensor(tensor.detach().to(state.norms.device))) for name, tensor in tensors.items())
    return {name: tensor.cpu() for name, tensor in gathered if state.context.is_rank0}


def _optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Every state tensor as `optimizer.weight.key`. Parameter groups and learning rates come from the configuration."""
    return {
        f"{i}.{index}.{key}": torch.as_tensor(value)
        for i, optimizer in enumerate(optimizers)
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def _load_optimizers(optimizers: list[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        i, index, key = name.split(".", 2)
        states[int(i)].setdefault(int(index), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for position, values in state.items():
            state[position] = {key: _laid_out_as(tensor, weights[position]) for key, tensor in values.items()}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(tensor: Tensor, weight: Tensor) -> Tensor:
    """`tensor` in the memory format of its weight, because fused optimizers ignore strides."""
    return torch.empty_like(weight).copy_(shard_like(tensor, weight)) if tensor.shape == weight.shape else tensor
