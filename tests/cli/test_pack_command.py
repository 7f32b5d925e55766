"""`cctkit pack`: one file from a folder, which other commands take for a data set."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from cctkit.cli.app import run
from cctkit.cli.progress import PlainReporter
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from tests.conftest import write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for side, number in (("train", 5), ("val", 2), ("test", 3)):
        write_images(tmp_path / "images" / side, {"cat": number, "dog": number}, size=(40, 50))
    return tmp_path / "images"


def test_a_packed_folder_is_the_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "images.safetensors"
    assert run(["pack", str(folder), "-o", str(output), "--image-size", "24x16"]) == 0
    out = capsys.readouterr().out
    assert out == f"{output}: 20 images of 2 classes, 24x16, 0 MB\nnext: cctkit train --dataset {output}\n"
    packed = load_dataset(DataConfig(dataset=str(output)))
    loaded = load_dataset(DataConfig(dataset=str(folder), image_size=(24, 16)))
    assert packed.class_names == ("cat", "dog")
    assert packed.fingerprint == loaded.fingerprint
    for name, number in (("train", 10), ("val", 4), ("test", 6)):
        split, expected = getattr(packed, name), getattr(loaded, name)
        assert split.ids() == expected.ids()
        assert split.labels.tolist() == expected.labels.tolist()
        assert split.take(np.arange(number)).equal(expected.take(np.arange(number)))


def test_json_describes_the_packed_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "cat" / "bad.png").write_bytes(b"")
    output = tmp_path / "packed"
    assert run(["pack", str(folder), "-o", str(output)]) == 2
    assert "--skip-bad" in capsys.readouterr().err
    assert not output.exists()
    assert run(["pack", str(folder), "-o", str(output), "--skip-bad", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["skipped"] == ["train/cat/bad.png: not an image in a supported format"]
    assert (told["num_images"], told["num_classes"], told["image_size"]) == (20, 2, [32, 32])
    assert told["bytes"] == output.stat().st_size
    assert told["fingerprint"] == load_dataset(DataConfig(dataset=str(output))).fingerprint


def test_the_count_of_skipped_images_has_a_singular(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "cat" / "bad.png").write_bytes(b"")
    assert run(["pack", str(folder), "-o", str(tmp_path / "packed"), "--skip-bad"]) == 0
    assert "1 broken image skipped\n    train/cat/bad.png: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "-o", "x"], "no such folder"),
        (["digits", "-o", "x", "--image-size", "big"], "image size"),
        (["digits", "-o", "x", "--resize-mode", "stretch"], "crop, squash"),
        (["digits", "-o", "."], "nothing is overwritten"),
        (["digits", "-o", "file/x"], "cannot write"),
        (["file", "-o", "x"], "expected a folder"),
        (["digits"], "output"),
    ],
)
def test_what_cannot_be_packed_is_an_error(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    assert run(["pack", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_a_terminal_long_work_prints_occasional_lines() -> None:
    stream = io.StringIO()
    reporter = PlainReporter(stream=stream)
    reporter.data("reading images", 0, 9000)
    reporter.data("reading images", 10, 9000)
    assert stream.getvalue() == ""
    reporter.log_every_s = 0.0
    reporter.data("reading images", 4500, 9000)
    assert stream.getvalue() == "reading images: 4,500 of 9,000\n"
