"""The weights that a run has from its first epoch on: of which epoch, at every instant, and what can be done with them."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cctkit
from benchmarks.jobs import lines, sha256
from cctkit.api import SilentReporter, evaluate, fit
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError, UserError
from cctkit.models.weights import read_info, read_weights
from cctkit.runs.paths import RunPaths, newest_run, weights_file
from cctkit.training import loop
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from tests.conftest import write_images

SETTINGS: dict[str, Any] = {"image_size": 8, "precision": "float32", "batch_size": 20, "threads": 1, "lr": 0.01}
TOP1 = (50.0, 40.0, 60.0, 55.0)  # by epoch, of validation
FILES = ("weights.safetensors", "last.safetensors", "metrics.jsonl", "predictions.safetensors")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("kept") / "images"
    write_images(folder, {"cat": 24, "dog": 24, "ant": 24}, size=(8, 8))
    return SETTINGS | {"dataset": str(folder), "epochs": len(TOP1)}


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """validated(a, b, ...): epoch 1 has a validation top-1 of a, and so on."""
    record = loop._record

    def arrange(*top1: float) -> None:
        def changed(job: Any, state: Any, epoch: int, speed: Any) -> dict[str, Any]:
            return record(job, state, epoch, speed) | {"val_top1_percent": top1[epoch]}

        monkeypatch.setattr(loop, "_record", changed)

    return arrange


class Watch(SilentReporter):
    """Looks into the run after each epoch; asks to stop after `stop_after`."""

    def __init__(self, run: Path, stop_after: int = 0) -> None:
        self.run, self.stop_after, self.stop = RunPaths(run), stop_after, StopRequest()
        self.epochs: list[tuple[int | None, int | None]] = []
        self.digests: list[str] = []

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.epochs.append((epoch_in(self.run.weights), epoch_in(self.run.last)))
        self.digests.append(sha256(self.run.weights))
        if record["epoch"] == self.stop_after:
            self.stop.signal_number = signal.SIGINT


def epoch_in(path: Path) -> int | None:
    if not path.exists():
        return None
    trained = read_info(path).trained
    assert trained is not None
    return trained.epoch


def train(run: Path, settings: dict[str, Any], *, stop_after: int = 0) -> Watch:
    watch = Watch(run, stop_after)
    request = Request(flags=settings, file_values={}, recipe="report", output=run)
    start_run(request, reporter=watch, stop=watch.stop)
    return watch


def stopped(run: Path, settings: dict[str, Any], *, after: int) -> None:
    with pytest.raises(StoppedError):
        train(run, settings, stop_after=after)


def resume(run: Path) -> dict[str, Any]:
    return resume_run(run, {}, reporter=SilentReporter(), stop=StopRequest())[1]


def test_the_best_and_the_newest_weights_are_there_after_each_epoch(
    settings: dict[str, Any], tmp_path: Path, validated: Callable[..., None]
) -> None:
    validated(*TOP1)
    watch = train(tmp_path / "run", settings | {"val_fraction": 0.2})
    assert watch.epochs == [(1, None), (1, 2), (3, None), (3, 4)]
    assert watch.digests[0] == watch.digests[1]
    assert watch.digests[2] == watch.digests[3]
    run = RunPaths(tmp_path / "run")
    best, newest = read_weights(run.weights), read_weights(run.last)
    assert (best[1].trained, newest[1].trained) == (
        cctkit.models.weights.Trained(epoch=3, planned_epochs=4, chosen_by="validation"),
        cctkit.models.weights.Trained(epoch=4, planned_epochs=4, chosen_by="last epoch"),
    )
    assert any(not best[0][name].equal(newest[0][name]) for name in best[0])
    result = json.loads(run.result.read_text())
    assert (result["epoch"], result["epochs"], result["planned_epochs"]) == (3, 4, 4)
    assert (result["chosen_by"], result["finished"]) == ("validation", True)
    told = evaluate(run.path)
    assert {key: told[key] for key in ("top1_percent", "loss", "epoch", "finished")} == {
        key: result[key] for key in ("top1_percent", "loss", "epoch", "finished")
    }


def test_without_validation_the_newest_weights_are_the_runs(settings: dict[str, Any], tmp_path: Path) -> None:
    watch = train(tmp_path / "run", settings | {"ema": 0.5})
    assert watch.epochs == [(1, None), (2, None), (3, None), (4, None)]
    assert len(set(watch.digests)) == 4


def test_a_stopped_run_is_evaluated_as_its_epoch_and_called_unfinished(settings: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(run, settings, after=2)
    assert not (run / "result.json").exists()
    found = evaluate(run)
    assert (found["epoch"], found["planned_epochs"], found["chosen_by"], found["finished"]) == (2, 4, "last epoch", False)
    assert (found["top1_percent"], found["loss"]) == tuple(lines(run)[1][key] for key in ("test_top1_percent", "test_loss"))
    assert not (run / "predictions.safetensors").exists()  # which are those of the result
    model, info = cctkit.load(run)
    assert info.trained is not None
    assert (info.trained.epoch, info.metrics) == (2, {})
    bare = evaluate(run / "weights.safetensors", dataset=settings["dataset"])
    assert (bare["epoch"], bare["finished"], bare["loss"]) == (2, None, found["loss"])
    assert not model.training
    again = fit(
        recipe="report", output=tmp_path / "next", **settings | {"init": str(run), "epochs": 1, "lr": 1e-9, "drop_path": 0.0}
    )
    assert again["loss"] == pytest.approx(found["loss"], abs=1e-4)


def test_before_its_first_epoch_is_done_a_run_has_no_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    class AtOnce(Watch):
        log_every_s = 0.0

        def progress(self, now: Any) -> None:
            self.stop.signal_number = signal.SIGINT

    run = tmp_path / "run"
    watch = AtOnce(run)
    request = Request(flags=settings, file_values={}, output=run)
    with pytest.raises(StoppedError):
        start_run(request, reporter=watch, stop=watch.stop)
    assert not (run / "weights.safetensors").exists()
    for use in (evaluate, cctkit.load, lambda path: fit(output=tmp_path / "next", **settings | {"init": str(path)})):
        with pytest.raises(UserError, match="this run has no weights yet") as caught:
            use(run)
        assert caught.value.remedy == f"resume it: cctkit train --resume {run}"
    assert not (tmp_path / "next").exists()
    with pytest.raises(UserError, match="not a run directory"):
        weights_file(tmp_path)
    with pytest.raises(UserError, match="no run with weights"):
        newest_run(tmp_path)


class KilledError(BaseException):
    """Ends a run as SIGKILL does: nothing of it comes after."""


@pytest.fixture(scope="module")
def unbroken(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patch:
        record = loop._record
        patch.setattr(loop, "_record", lambda *args: record(*args) | {"val_top1_percent": TOP1[args[2]]})
        train(run, settings | {"val_fraction": 0.2})
    return digests(run)


def digests(run: Path) -> dict[str, str]:
    return {name: sha256(run / name) for name in FILES if name != "metrics.jsonl"} | {"metrics.jsonl": json.dumps(lines(run))}


# The renames of an epoch: its weights as the newest, then (where they are the best) as the run's, then its checkpoint.
NAMES = {1: ("last", "weights", "step"), 2: ("last", "step"), 3: ("last", "weights", "step"), 4: ("last", "step")}
RENAMES = [(epoch, name) for epoch, names in NAMES.items() for name in names]
QUICK = {(2, "step"), (3, "weights")}


@pytest.mark.parametrize(
    ("epoch", "name"), [pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow) for each in RENAMES]
)
def test_a_kill_at_any_rename_leaves_a_pair_that_fits_and_resumes_to_the_same_files(
    settings: dict[str, Any],
    unbroken: dict[str, str],
    tmp_path: Path,
    validated: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    name: str,
) -> None:
    validated(*TOP1)
    run, calls = RunPaths(tmp_path / "run"), [0]
    at = sum(name in names for number, names in NAMES.items() if number <= epoch) + (name == "step")  # one is of step 0
    with monkeypatch.context() as patch:
        for function in ("replace", "rename"):
            real = getattr(os, function)

            def killing(source: Any, target: Any, real: Any = real) -> None:
                calls[0] += Path(target).name.startswith(name)
                if calls[0] == at and Path(target).name.startswith(name):
                    raise KilledError
                real(source, target)

            patch.setattr(os, function, killing)
        with pytest.raises(KilledError):
            train(run.path, settings | {"val_fraction": 0.2})
    done = epoch if name == "step" else epoch - 1  # whose weights are in place
    newest = epoch if name == "weights" else done
    best = {0: None, 1: 1, 2: 1, 3: 3, 4: 3}[done]
    assert (epoch_in(run.weights), epoch_in(run.last)) == (best, None if newest == best else newest or None)
    resume(run.path)
    assert digests(run.path) == unbroken


@pytest.mark.parametrize("kind", ["missing", "of another epoch", "damaged", "without an epoch"])
def test_the_best_weights_are_written_again_where_they_are_not_those_of_the_checkpoint(
    settings: dict[str, Any], tmp_path: Path, validated: Callable[..., None], kind: str
) -> None:
    """As after a start that was killed and goes on with other bits, or in a run of an older version."""
    validated(*TOP1)
    run = RunPaths(tmp_path / "run")
    stopped(run.path, settings | {"val_fraction": 0.2}, after=1)
    expected = sha256(run.weights)
    if kind == "missing":
        run.weights.unlink()
    elif kind == "damaged":
        run.weights.write_bytes(run.weights.read_bytes()[:500])
    else:
        tensors, info = read_weights(run.weights)
        assert info.trained is not None
        trained = None if kind == "without an epoch" else replace(info.trained, epoch=2)
        cctkit.models.weights.save_weights(run.weights, tensors=tensors, info=replace(info, trained=trained))
    watch = Watch(run.path, stop_after=2)
    with pytest.raises(StoppedError):
        resume_run(run.path, {}, reporter=watch, stop=watch.stop)
    assert watch.epochs == [(1, 2)]
    assert sha256(run.weights) == expected
