"""Weights that come with cctkit, by their name."""

from pathlib import Path

import pytest
import torch

import cctkit
from cctkit.cli.app import run
from cctkit.errors import UserError
from cctkit.runs import paths
from tests.conftest import write_images


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, a `run` on them, and its weights in `weights` as `tiny_c2`."""
    folder = tmp_path_factory.mktemp("shipped")
    write_images(folder / "images", {"dark": 12, "light": 12})
    cctkit.fit(dataset=str(folder / "images"), model="cct_2_3x1", image_size=8, epochs=1, output=folder / "run", threads=1)
    (folder / "weights").mkdir()
    (folder / "weights" / "tiny_c2.safetensors").write_bytes((folder / "run" / "weights.safetensors").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def shipped(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SHIPPED", place / "weights")
    monkeypatch.chdir(tmp_path)


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


def test_a_path_that_exists_comes_before_a_name(place: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny_c2").write_bytes(b"mine")
    with pytest.raises(UserError, match="not a safetensors file"):
        cctkit.load("tiny_c2")
    with pytest.raises(UserError, match="there is no such weights file"):
        cctkit.load(tmp_path / "elsewhere" / "tiny_c2")


def test_an_unknown_name_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "tiny_c3", "--dataset", "digits"]) == 2
    assert "tiny_c2" in capsys.readouterr().err
    assert run(["train", "--dataset", "digits", "--init", "tiny_c3"]) == 2
    assert "tiny_c2" in capsys.readouterr().err
