"""What a checkpoint holds of a run: the train state and the history, as named tensors and JSON values, and back."""

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
    "best_top1_percent": NUMBER,
    "scaler": dict,
}
_LATER_VALUES: dict[str, Shape] = {"best_loss": (NUMBER, None), "improved_epoch": int}
"""What older checkpoints lack."""


@dataclass(slots=True, kw_only=True, eq=False)
class History:
    """The epochs that are done, and the best one where there are validation images: by their top-1, ties by their loss.

    best_epoch: 0 where there is none; best_loss: None where it is not known; improved_epoch: the last one that raised the
    top-1, from which early stopping counts.
    """

    epochs_done: int = 0
    best_epoch: int = 0
    best_top1_percent: float = -1.0
    best_loss: float | None = None
    improved_epoch: int = 0
    best: dict[str, Tensor] | None = None

    @property
    def newest_is_best(self) -> bool:
        """Whether the newest epoch is the one to keep: without validation images it always is."""
        return self.best_epoch in (0, self.epochs_done)

    def add(self, record: Mapping[str, Any], model: nn.Module) -> None:
        """Count the epoch of `record`; keep the weights of `model` where they are the best by validation so far."""
        self.epochs_done = record["epoch"]
        top1, loss = record.get("val_top1_percent"), record.get("val_loss")
        if top1 is None or top1 < self.best_top1_percent:
            return
        if top1 > self.best_top1_percent:
            self.improved_epoch = self.epochs_done
        elif loss is None or self.best_loss is None or loss >= self.best_loss:
            return
        self.best_epoch, self.best_top1_percent, self.best_loss = self.epochs_done, top1, loss
        self.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def pack(state: TrainState, history: History) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors by file and the JSON values of a checkpoint."""
    tensors = {
        "model": state.model.state_dict(),
        "optimizer": _optimizer_tensors(state.optimizers),
        "progress": {"norms": state.norms, "sums": state.sums},
    }
    if state.ema is not None:
        tensors["ema"] = state.ema.state_dict()
    if history.best is not None:
        tensors["best"] = history.best
    values = {
        "step": state.step,
        "epochs_done": history.epochs_done,
        "best_epoch": history.best_epoch,
        "best_top1_percent": history.best_top1_percent,
        "best_loss": history.best_loss,
        "improved_epoch": history.improved_epoch,
        "scaler": state.scaler.state_dict(),
    }
    return tensors, values


def unpack(checkpoint: Checkpoint, state: TrainState, *, steps: int) -> History:
    """Bring `state` to the checkpoint's, of a run with `steps` steps an epoch; return the history.

    Raises: UserError where the checkpoint is not of such a run.
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
    return History(
        epochs_done=values["epochs_done"],
        best_epoch=values["best_epoch"],
        best_top1_percent=values["best_top1_percent"],
        best_loss=values.get("best_loss"),
        improved_epoch=values.get("improved_epoch", values["best_epoch"]),
        best=_shard_like(tensors["best"], state.result) if "best" in tensors else None,
    )


def _shard_like(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The whole `tensors` as `module` has those of their names: shared out over the ranks, or as they are."""
    own = module.state_dict()
    return {name: shard_like(tensor, own.get(name, tensor)) for name, tensor in tensors.items()}


def result_tensors(state: TrainState) -> dict[str, Tensor]:
    """The weights of the result, by the published names, on the first rank; all have to call it."""
    return whole_tensors(state, state.result.state_dict())


def whole_tensors(state: TrainState, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` gathered and on the CPU, on the first rank; all have to call it."""
    gathered = ((name, full_tensor(tensor.detach().to(state.norms.device))) for name, tensor in tensors.items())
    return {name: tensor.cpu() for name, tensor in gathered if state.ranks.first}


def _optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Every state tensor as `optimizer.weight.key`; groups and rates come from the configuration."""
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
    """`tensor` in the memory format of its weight: the fused optimizers walk both side by side, whatever their strides."""
    return torch.empty_like(weight).copy_(shard_like(tensor, weight)) if tensor.shape == weight.shape else tensor
