"""Weights that come with cctkit, by their name."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import cctkit
from cctkit.catalog.counts import count
from cctkit.catalog.models import named_config
from cctkit.cli.app import run
from cctkit.errors import UserError
from cctkit.hub.folder import write_hub_folder
from cctkit.models.build import build_model
from cctkit.models.weights import read_weights
from cctkit.runs import paths
from cctkit.training.initial_weights import initialise
from docs.ship import neutral
from tests.conftest import write_images


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, a `run` on them, and its weights in `weights` as `tiny_c2`."""
    folder = tmp_path_factory.mktemp("shipped")
    write_images(folder / "images", {"dark": 12, "light": 12})
    cctkit.fit(dataset=str(folder / "images"), model="cct_2_3x1", image_size=8, epochs=1, output=folder / "run", threads=1)
    shutil.copytree(folder / "run", folder / "weights" / "tiny_c2")
    return folder


@pytest.fixture
def stand_in(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SHIPPED", place / "weights")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("stand_in")
def test_a_name_is_evaluated_classifies_and_starts_a_run(place: Path, tmp_path: Path) -> None:
    of_run = cctkit.evaluate(place / "run")
    assert cctkit.evaluate("tiny_c2", dataset=str(place / "images"))["loss"] == of_run["loss"]
    image = place / "images" / "dark" / "0.png"
    by_name, by_run = (cctkit.Classifier(source).predict(image)[0] for source in ("tiny_c2", place / "run"))
    assert by_name.probability == by_run.probability
    settings = {"dataset": str(place / "images"), "model": "cct_2_3x1", "image_size": 8, "epochs": 1, "threads": 1}
    cctkit.fit(**settings, init="tiny_c2", lr=1e-12, optimizer="adamw", output=tmp_path / "second")
    first, second = (cctkit.load(source)[0].state_dict() for source in (place / "run", tmp_path / "second"))
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


@pytest.mark.usefixtures("stand_in")
def test_a_path_that_exists_comes_before_a_name(place: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny_c2").write_bytes(b"mine")
    with pytest.raises(UserError, match="not a safetensors file"):
        cctkit.load("tiny_c2")
    with pytest.raises(UserError, match="there is no such weights file"):
        cctkit.load(tmp_path / "elsewhere" / "tiny_c2")


@pytest.mark.usefixtures("stand_in")
def test_an_unknown_name_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "tiny_c3", "--dataset", "digits"]) == 2
    assert "tiny_c2" in capsys.readouterr().err
    assert run(["train", "--dataset", "digits", "--init", "tiny_c3"]) == 2
    assert "tiny_c2" in capsys.readouterr().err


@pytest.mark.usefixtures("stand_in")
def test_compare_shows_them_beside_what_is_published_of_the_same_model(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = place / "weights" / "tiny_c2" / "result.json"
    values = json.loads(result.read_text()) | {"model": "cct_2_3x2", "dataset": "cifar100", "top1_percent": 66.0}
    values |= {"top1_interval_percent": [65.0, 67.0], "params": {"total": 295_333, "without_embeddings": 287_141}}
    monkeypatch.setattr(paths, "SHIPPED", tmp_path)
    shutil.copytree(place / "weights" / "tiny_c2", tmp_path / "tiny_c2")
    (tmp_path / "tiny_c2" / "result.json").write_text(json.dumps(values))

    assert run(["compare", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    shipped = next(row for row in rows if row["kind"] == "shipped")
    assert (shipped["run"], shipped["true_params"], shipped["top1_interval_percent"]) == ("tiny_c2", 295_333, [65.0, 67.0])
    assert (shipped["macs"] is None, shipped["epochs"], shipped["seed"]) == (True, 1, 0)
    published = next(row for row in rows if row["model"] == "cct_2_3x2" and row["kind"] == "published")
    assert (published["top1_percent"], published["dataset"]) == (66.90, "cifar100")

    assert run(["compare", "--plot", "front.svg"]) == 0
    table = capsys.readouterr().out
    line = next(line for line in table.splitlines() if line.startswith("tiny_c2 "))
    assert "65.00-67.00" in line
    assert "fast" not in line  # recipe and seed are in the footnote
    assert "tiny_c2, weights that come with cctkit, recipe fast, seed 0" in table
    assert {"tiny_c2", "trained with cctkit"} <= set(re.findall("<!-- (.*?) -->", Path("front.svg").read_text()))
    assert run(["compare", "--no-published"]) == 2


@pytest.mark.usefixtures("stand_in")
def test_curves_takes_a_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["curves", "tiny_c2"]) == 0
    by_name = capsys.readouterr().out
    assert run(["curves", str(place / "weights" / "tiny_c2")]) == 0
    assert by_name == capsys.readouterr().out


@pytest.mark.parametrize("name", paths.shipped_names())
def test_what_is_said_of_shipped_weights_is_what_they_are(name: str, tmp_path: Path) -> None:
    folder = paths.shipped_run(name)
    tensors, info = read_weights(paths.weights_file(Path(name)))
    result = json.loads((folder / "result.json").read_text())
    total = sum(tensor.numel() for tensor in tensors.values())
    assert total == result["params"]["total"] == count(info.model).weights
    assert result["top1_percent"] == info.metrics["top1_percent"]
    assert (result["chosen_by"], result["epoch"]) == ("last epoch", result["planned_epochs"])

    write_hub_folder(folder, tmp_path / name, onnx=None, notify=print)
    generated = (tmp_path / name / "README.md").read_text().splitlines()
    card = (folder / "README.md").read_text().splitlines()
    other = [(before, after) for before, after in zip(generated, card, strict=True) if before != after]
    assert [before[:20] for before, _ in other] == ['license: "unknown"', "> Fill in before you"]
    assert re.search(r"MIT licence.* commit [0-9a-f]{7};", other[1][1])


@pytest.mark.parametrize("name", paths.shipped_names())
def test_shipped_weights_are_named_by_their_model(name: str) -> None:
    _, info = read_weights(paths.weights_file(Path(name)))
    of_training = {rate: getattr(info.model, rate) for rate in ("attention_dropout", "drop_path")}
    assert dataclasses.replace(named_config(name), name=info.model.name, **of_training) == info.model


@pytest.mark.parametrize("name", paths.shipped_names())
def test_shipped_weights_start_a_run_on_the_same_classes_and_on_others(name: str) -> None:
    tensors, info = read_weights(paths.weights_file(Path(name)))
    for num_classes, fresh in ((len(info.class_names), []), (7, ["classifier.fc.bias", "classifier.fc.weight"])):
        config = dataclasses.replace(info.model, num_classes=num_classes)
        model = build_model(config, seed=0)
        report = initialise(model, name, config=config, class_names=info.class_names if not fresh else list("abcdefg"))
        assert (report.taken, sorted(report.missing)) == (len(tensors) - len(fresh), fresh)
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in model.state_dict().items() if key not in fresh)


def test_weights_of_another_family_are_refused_by_their_names() -> None:
    config = named_config("cct_2_3x2_c100")
    with pytest.raises(UserError, match=r"those of tct_3_2, which is of another family than cct_2_3x2"):
        initialise(build_model(config, seed=0), "tct_3_2_c100", config=config)
    config = named_config("tct_3_3_c100")
    with pytest.raises(UserError, match=r"2 blocks of width 96 against 3 blocks of width 96"):
        initialise(build_model(config, seed=0), "tct_3_2_c100", config=config)


def test_shipped_files_are_few_and_name_no_path_of_a_machine() -> None:
    files = [path for path in paths.SHIPPED.rglob("*") if path.is_file()]
    assert paths.shipped_names()
    assert sum(path.stat().st_size for path in files) < 2_500_000
    assert not [path for path in files if re.search(rb"/(root|home|tmp|Users|work)/", path.read_bytes())]


def test_paths_of_the_machine_become_neutral(place: Path) -> None:
    run_path, dataset = place / "run", str(place / "images")
    config = json.loads(neutral((run_path / "config.json").read_text(), run_path))
    assert config["values"]["dataset"] == "FOLDER"
    env = {"command": ["train", dataset, "--output", str(run_path)], "launch": ["job", "machine", 1, []]}
    neutral_env = {"command": ["train", "FOLDER", "--output", "RUN"], "launch": None}
    assert json.loads(neutral(json.dumps(env), run_path)) == neutral_env
