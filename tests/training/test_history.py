"""Which epoch is kept: by validation top-1, ties by validation loss, never by test; and how long early stopping waits."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cctkit.catalog.models import named_config
from cctkit.config.settings import TrainConfig
from cctkit.engine.device import DevicePolicy
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.training.checkpoint import Checkpoint
from cctkit.training.loop import _stops_early
from cctkit.training.optim import make_optimizers
from cctkit.training.state import History, pack, unpack
from cctkit.training.step import TrainState, new_state

POLICY = DevicePolicy(device="cpu", precision="float32", attention="chunked", attention_in_evaluation="chunked", threads=1)


def history_of(*epochs: dict[str, Any], choose_by: str = "top1") -> History:
    """The history of these epochs; the weight of each is its number."""
    history, model = History(), nn.Linear(1, 1, bias=False)
    for number, figures in enumerate(epochs, start=1):
        with torch.no_grad():
            model.weight.fill_(number)
        history.add({"epoch": number, **figures}, model, choose_by=choose_by)
    return history


def val(top1: float, loss: float | None = None) -> dict[str, Any]:
    return {"val_top1_percent": top1, "val_loss": loss}


@pytest.mark.parametrize(
    ("epochs", "best"),
    [
        ([val(50, 1.0), val(60, 2.0), val(40, 0.5)], 2),  # top-1 first
        ([val(50, 1.0), val(50, 0.9), val(50, 0.95)], 2),  # then the loss
        ([val(50, 1.0), val(50, 1.0)], 1),  # all equal: the earlier one
        ([val(50, None), val(50, 1.0)], 1),  # a loss that is not finite decides nothing
        ([val(50, 1.0), val(50, None)], 1),
        ([val(0, 3.0)], 1),
        ([{}, {}], 0),
        ([{"test_top1_percent": 90.0, "test_loss": 0.1}, {"test_top1_percent": 10.0}], 0),
        ([val(50, 1.0) | {"test_top1_percent": 10.0}, val(40, 1.0) | {"test_top1_percent": 90.0}], 1),
    ],
    ids=str,
)
def test_the_best_epoch_is_by_validation_top1_and_ties_by_validation_loss(epochs: list[dict[str, Any]], best: int) -> None:
    history = history_of(*epochs)
    assert history.best_epoch == best
    assert (None if history.best is None else history.best["weight"].item()) == (best or None)
    assert history.newest_is_best == (best in (0, len(epochs)))


def figures(top1: float, balanced: float, loss: float | None) -> dict[str, Any]:
    return {"val_top1_percent": top1, "val_balanced_accuracy_percent": balanced, "val_loss": loss}


# The best epoch of these is another one by each figure.
EPOCHS = [figures(50, 10, 3.0), figures(60, 20, 2.5), figures(55, 30, 2.0), figures(40, 25, 1.5), figures(41, 30, None)]


@pytest.mark.parametrize(("choose_by", "best"), [("top1", 2), ("balanced", 3), ("loss", 4)])
def test_the_best_epoch_and_early_stopping_go_by_the_chosen_figure(choose_by: str, best: int) -> None:
    history = history_of(*EPOCHS, choose_by=choose_by)
    assert (history.best_epoch, history.improved_epoch) == (best, best)
    assert history.best is not None
    assert history.best["weight"].item() == best
    for patience in range(1, 5):
        job: Any = SimpleNamespace(config=TrainConfig(early_stopping=patience))
        assert _stops_early(job, history) == (patience <= 5 - best)


def test_by_loss_of_equal_epochs_the_earlier_one_is_kept() -> None:
    assert history_of(figures(1, 1, 2.0), figures(2, 2, 2.0), choose_by="loss").best_epoch == 1
    assert history_of(figures(1, 1, None), figures(2, 2, 2.0), choose_by="loss").best_epoch == 2
    assert history_of(figures(9, 9, 1.0), figures(9, 9, 0.5), choose_by="balanced").best_epoch == 2  # ties by the loss


def test_early_stopping_counts_from_the_last_better_top1_whatever_the_loss() -> None:
    job: Any = SimpleNamespace(config=TrainConfig(early_stopping=2))
    falling = [val(50, 1.0), val(50, 0.9), val(50, 0.8)]
    assert history_of(*falling).best_epoch == 3
    assert [_stops_early(job, history_of(*falling[:n])) for n in range(4)] == [False, False, False, True]
    assert not _stops_early(job, history_of(*falling[:2], val(51, 0.8)))


def test_the_temperature_is_that_of_the_epoch_that_is_kept() -> None:
    epochs = [val(50) | {"val_temperature": 1.5}, val(60) | {"val_temperature": 1.25}, val(40) | {"val_temperature": 2.0}]
    history = history_of(*epochs)
    assert (history.kept_temperature, history.best_temperature, history.temperature) == (1.25, 1.25, 2.0)
    assert history_of(val(50) | {"val_temperature": 1.5}, val(60) | {"val_temperature": None}).kept_temperature is None
    assert history_of({}, {}).kept_temperature is None
    unchosen = {"val_temperature": 1.5, "val_loss": None}  # by a figure that is not finite: the newest epoch is kept
    assert history_of(unchosen, choose_by="loss").kept_temperature == 1.5


def state_of() -> TrainState:
    config = TrainConfig()
    model = POLICY.prepare(build_model(named_config("cct_2_3x2", num_classes=2, image_size=8), seed=0)).train()
    return new_state(model, make_optimizers(model, config), ema=None, policy=POLICY)


def test_an_older_checkpoint_goes_on_and_keeps_the_earlier_of_equal_epochs() -> None:
    state = state_of()
    before = History(epochs_done=3, best_epoch=2, best_score=50.0, best_loss=0.25, improved_epoch=1, best_temperature=1.5)
    before.best = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    tensors, values = pack(state, before)
    found = Checkpoint(path=Path("step-000000000"), step=0, tensors=tensors, state=values | {"step": 9})
    again = unpack(found, state_of(), steps=3)
    assert (again.best_loss, again.improved_epoch) == (0.25, 1)
    assert (again.best_score, again.best_temperature, again.temperature) == (50.0, 1.5, None)
    for key in ("best_loss", "improved_epoch", "best_score", "temperature", "best_temperature"):
        del found.state[key]
    found.state["best_top1_percent"] = 50.0
    older = unpack(found, state_of(), steps=3)
    assert (older.best_epoch, older.best_score, older.best_loss, older.improved_epoch) == (2, 50.0, None, 2)
    older.add({"epoch": 4, **val(50.0, 0.01)}, state.model)
    assert (older.best_epoch, older.best_temperature) == (2, None)


@pytest.mark.parametrize(
    "change", [{"best_loss": "low"}, {"improved_epoch": None}, {"best_score": None}, {"best_temperature": "hot"}], ids=str
)
def test_a_history_of_another_shape_is_an_error(change: dict[str, Any]) -> None:
    state = state_of()
    tensors, values = pack(state, History())
    found = Checkpoint(path=Path("step-000000000"), step=0, tensors=tensors, state=values | change)
    with pytest.raises(UserError, match="does not fit the run's settings"):
        unpack(found, state, steps=3)
