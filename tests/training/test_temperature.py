"""The temperature of a run: of which weights it is, and that it is the same however the run came to its end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.jobs import lines, sha256
from cctkit.cli.app import run as command
from cctkit.config.settings import DataConfig
from cctkit.errors import UserError
from cctkit.evaluation.source import EvalConfig, evaluate_source
from cctkit.models.weights import read_info
from cctkit.runs.paths import RunPaths
from cctkit.runs.predictions import read_predictions
from cctkit.training import loop
from cctkit.training import run as run_module
from tests.training.test_kept_weights import SETTINGS, resume, stopped, train

TOP1 = (60.0, 50.0)  # by epoch, of validation: the first is the best, and the last one is kept beside it


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two classes whose brightness overlaps, so that some of the 24 validation images are wrong."""
    folder, draws = tmp_path_factory.mktemp("temperature") / "images", np.random.default_rng(0)
    for label, name in enumerate(("dim", "lit")):
        (folder / name).mkdir(parents=True)
        for i in range(75):
            grey = draws.normal(110 + 30 * label, 25)
            pixels = draws.normal(grey, 8, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return SETTINGS | {"dataset": str(folder), "epochs": len(TOP1), "val_fraction": 0.2, "lr": 0.003}


def choose_epochs(patch: pytest.MonkeyPatch) -> None:
    """Let epochs have the validation top-1 of `TOP1`."""
    record = loop._record
    patch.setattr(loop, "_record", lambda *args: record(*args) | {"val_top1_percent": TOP1[args[2]]})


@pytest.fixture(scope="module")
def finished(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    path = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        choose_epochs(patch)
        train(path, settings)
    return RunPaths(path)


def of_torch(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature by L-BFGS on the cross entropy, as in the code of Guo et al. (github.com/gpleiss/temperature_scaling)."""
    temperature = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits / temperature, labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return temperature.item()


def test_the_best_and_the_newest_weights_have_each_the_temperature_of_their_own_validation_logits(
    settings: dict[str, Any], finished: RunPaths, tmp_path: Path
) -> None:
    found = []
    for weights in (finished.weights, finished.last):
        saved = tmp_path / f"{weights.stem}.safetensors"
        config = EvalConfig(
            data=DataConfig(dataset=settings["dataset"]), split="val", precision="float32", save_predictions=saved
        )
        evaluate_source(weights, config, notify=lambda _: None, progress=lambda *_: None)
        predictions = read_predictions(saved)
        assert len(predictions.ids) == 24
        expected = of_torch(torch.from_numpy(predictions.logits).double(), torch.from_numpy(predictions.labels))
        found.append(read_info(weights).temperature)
        assert found[-1] == pytest.approx(expected, rel=1e-4)
    assert found[0] != pytest.approx(found[1], rel=1e-2)
    assert [record["val_temperature"] for record in lines(finished.path)] == found
    result = json.loads(finished.result.read_text())
    assert result["temperature"] == found[0]
    assert read_info(finished.weights).metrics == {
        key: result[key] for key in ("top1_percent", "top5_percent", "loss", "ece", "temperature")
    }


def test_a_run_that_is_stopped_or_fails_before_its_result_has_the_same_temperature_when_it_is_resumed(
    settings: dict[str, Any], finished: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_epochs(monkeypatch)
    run = RunPaths(tmp_path / "run")
    stopped(run.path, settings, after=1)
    assert read_info(run.weights).temperature == read_info(finished.weights).temperature is not None
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_result", lambda *_: (_ for _ in ()).throw(UserError("no result")))
        with pytest.raises(UserError, match="no result"):
            resume(run.path)
    resume(run.path)  # trains no more
    for own, other in ((run.weights, finished.weights), (run.last, finished.last)):
        assert sha256(own) == sha256(other)
    assert json.loads(run.result.read_text())["temperature"] == json.loads(finished.result.read_text())["temperature"]


def test_without_validation_images_there_is_none_even_from_weights_that_have_one_and_it_is_said_once(
    settings: dict[str, Any], finished: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    words = ["--image-size=8", "--batch-size=20", "--epochs=1", "--threads=1", "--init", str(finished.path), "-o", str(output)]
    assert command(["train", settings["dataset"], *words]) == 0
    out, err = capsys.readouterr()
    assert (out + err).count("no temperature") == 1
    assert "with the temperature" not in out + err
    assert "   no temperature without validation images\n" in out
    info = read_info(output / "weights.safetensors")
    assert (info.temperature, "temperature" in info.metrics) == (None, False)
    result = json.loads((output / "result.json").read_text())
    assert [result[key] for key in ("temperature", "calibrated_loss", "calibrated_ece")] == [None] * 3


def test_validation_images_that_determine_none_are_said_to(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "fit_temperature", lambda *_: None)
    words = ["--image-size=8", "--batch-size=20", "--epochs=1", "--threads=1", "--val-fraction=0.2", "-o", str(tmp_path / "r")]
    assert command(["train", settings["dataset"], *words]) == 0
    out, err = capsys.readouterr()
    assert err.count("no temperature for the probabilities: on the validation images all predictions are right, or no") == 1
    assert "   no temperature\n" in out
    assert read_info(tmp_path / "r" / "weights.safetensors").temperature is None
