"""The life of a run from Python: which figures it has while it goes on, and which only at the end."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cctkit.api import SilentReporter, fit, resume
from cctkit.cli import app
from cctkit.config.settings import settings
from cctkit.errors import UserError
from cctkit.runs.runfiles import read_settings
from cctkit.training.reporter import StartedRun
from tests.conftest import write_images

SETTINGS: dict[str, Any] = {"image_size": 8, "precision": "float32", "batch_size": 16, "threads": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("life") / "images"
    write_images(folder, {"cat": 24, "dog": 24, "ant": 24}, size=(8, 8))
    return str(folder)


class Falling(SilentReporter):
    """Raises an error after the first epoch."""

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        raise ConnectionError(record["epoch"])


class Listening(SilentReporter):
    """Keeps the epochs that it is told of at the start, and those that follow."""

    def started(self, run: StartedRun) -> None:
        self.before, self.after = [record["epoch"] for record in run.records], list[int]()

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.after.append(record["epoch"])


def epochs_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(result: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "images_per_s"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("recipe", "flags", "each"),
    [
        ("fast", {}, False),
        ("report", {}, True),
        ("demo", {}, True),
        ("fast", {"test_every_epoch": True}, True),
        ("report", {"test_every_epoch": False}, False),
    ],
)
def test_test_figures_come_after_each_epoch_or_once_at_the_end(
    images: str, tmp_path: Path, recipe: str, flags: dict[str, Any], each: bool
) -> None:
    settings = {**SETTINGS, "dataset": images, "epochs": 2, "val_fraction": 0.2}
    result = fit(recipe=recipe, output=tmp_path / "run", **settings, **flags)
    for record in epochs_of(tmp_path / "run"):
        figures = ("loss", "loss_smoothed", "top1_percent", "balanced_accuracy_percent", "temperature")
        assert {key for key in record if key.startswith("val_")} == {f"val_{figure}" for figure in figures}
        assert ("test_top1_percent" in record, "test_loss" in record) == (each, each)
    assert (result["split"], result["num_images"]) == ("test", 15)  # 20% of 24, rounded, of each class
    if each:
        assert result["top1_percent"] == epochs_of(tmp_path / "run")[result["epoch"] - 1]["test_top1_percent"]


@pytest.mark.parametrize("of", [{"recipe": "report"}, {"recipe": "tct-200", "model": "tct_1_1x2", "warmup_epochs": 1}], ids=str)
def test_a_run_that_an_error_of_its_tracker_has_ended_is_resumed_from_python(
    images: str, tmp_path: Path, of: dict[str, Any]
) -> None:
    flags = {**SETTINGS, "dataset": images, "epochs": 3, **of}
    unbroken = fit(output=tmp_path / "unbroken", **flags)
    with pytest.raises(ConnectionError):
        fit(output=tmp_path / "run", reporter=Falling(), **flags)
    listening = Listening()
    result = resume(tmp_path / "run", reporter=listening, workers=0)
    assert (listening.before, listening.after) == ([1], [2, 3])
    assert untimed(result) == untimed(unbroken)
    assert sha256(tmp_path / "run" / "weights.safetensors") == sha256(tmp_path / "unbroken" / "weights.safetensors")
    assert untimed(resume(tmp_path / "run")) == untimed(result)  # of a finished run
    with pytest.raises(UserError, match="epochs"):
        resume(tmp_path / "run", epochs=4)


def test_the_settings_that_resume_names_are_those_that_may_change() -> None:
    (named,) = re.findall(r"these may change: (.*)\.", resume.__doc__ or "")
    assert named.split(", ") == [item.name for item, _ in settings() if item.metadata["may_change"]]


def test_what_is_evaluated_on_the_way_changes_no_weights(images: str, tmp_path: Path) -> None:
    for name, value in (("each", True), ("once", False)):
        fit(dataset=images, epochs=2, output=tmp_path / name, test_every_epoch=value, drop_path=0.5, dropout=0.5, **SETTINGS)
    assert sha256(tmp_path / "each" / "weights.safetensors") == sha256(tmp_path / "once" / "weights.safetensors")


def test_a_run_from_before_the_setting_goes_on_evaluating_test_after_each_epoch(images: str, tmp_path: Path) -> None:
    fit(dataset=images, epochs=1, recipe="fast", output=tmp_path / "run", **SETTINGS)
    path = tmp_path / "run" / "config.json"
    assert not read_settings(path)[0].test_every_epoch
    stored = json.loads(path.read_text())
    del stored["values"]["test_every_epoch"]
    path.write_text(json.dumps(stored))
    assert read_settings(path)[0].test_every_epoch


def test_a_run_is_made_longer_by_the_command_that_its_refusal_names(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "before"
    fit(dataset=images, epochs=1, recipe="report", output=before, lr=1e-9, seed=3, flip=False, **SETTINGS)
    assert app.run(["train", "--resume", str(before), "--epochs", "2"]) == 2
    what, _, remedy = capsys.readouterr().err.splitlines()
    assert what == "error: a resumed run keeps its settings: epochs is 1, got 2"
    command = f"cctkit train -c {before / 'config.json'} --init {before} --epochs 2"
    assert remedy == f"  try: start a new run from its weights: {command}"
    assert app.run([*shlex.split(command)[1:], "-o", str(tmp_path / "after"), "--quiet"]) == 0
    (old, recipe), (new, recipe_too) = (read_settings(path / "config.json") for path in (before, tmp_path / "after"))
    assert new == old.replace(epochs=2, init=str(before))
    assert recipe == recipe_too == "report"
    losses = [json.loads((path / "result.json").read_text())["loss"] for path in (before, tmp_path / "after")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    origins = json.loads((tmp_path / "after" / "config.json").read_text())["origins"]
    assert (origins["seed"], origins["epochs"]) == (f"config {before / 'config.json'}", "flag")


def test_fewer_epochs_or_another_setting_are_refused_without_that_way(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(dataset=images, epochs=2, output=tmp_path / "run", **SETTINGS)
    for flags in (["--epochs", "1"], ["--seed", "3"]):
        assert app.run(["train", "--resume", str(tmp_path / "run"), *flags]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == "  try: omit the flag, or start a new run"
