"""`cctkit check`: what it prints, its JSON, its exit code, and what it suggests."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from cctkit.bench import suggest
from cctkit.bench.suggest import Suggestion, sizes_for, suggest_training
from cctkit.catalog.recipes import RECIPES
from cctkit.cli.app import app, run
from tests.conftest import write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in two splits, with a copy of a training image in test, a broken image and a text file."""
    root = tmp_path / "images"
    for seed, (part, number) in enumerate((("train", 20), ("test", 4))):
        write_images(root / part, {"ant": number, "bee": number}, size=(32, 32), seed=seed)
    return root


def spoil(root: Path) -> None:
    shutil.copy(root / "train/ant/3.png", root / "test/ant/3b.png")
    (root / "train/bee/0.png").write_bytes(b"no image")
    (root / "train/notes.txt").write_text("x")


SPOILT = """\
data: {place}
  images: 39 train, 9 test
  classes: 2, of 19 ('bee') to 20 images ('ant'), not counting test
  sizes: all 32x32
  preprocessing: 32x32, not resized

error: 1 broken image: training stops
  train/bee/0.png: not an image in a supported format
  try: fix or remove them, or skip them with --skip-bad

error: 1 group of identical images in more than one split: the accuracy is measured on images that were trained on
  train/ant/3.png = test/ant/3b.png
  try: keep one image of each line

warning: 1 class with fewer than 20 training images
  train/bee
  try: add images, or leave the class out

note: 1 other file (.txt 1)
  train/notes.txt
  try: nothing is needed; move images among them to the folder of their class, as PNG or JPEG

found: 2 errors, 1 warning, 1 note
"""


def test_a_spoilt_folder_exits_with_2_and_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(folder)
    assert run(["check", str(folder), "--no-suggest", "--quiet"]) == 2
    streams = capsys.readouterr()
    assert streams.out == SPOILT.format(place=folder)
    assert streams.err == ""


def test_a_folder_without_training_images_is_an_error_that_names_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in (folder / "train").rglob("*.png"):
        image.unlink()
    assert run(["check", str(folder), "--quiet"]) == 2
    what, where, remedy = capsys.readouterr().err.splitlines()
    assert (what, where) == ("error: there are no images to train on", f"  in: {folder}")
    assert "train/" in remedy


def test_a_good_folder_exits_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(folder), "--no-suggest", "--quiet"]) == 0
    assert capsys.readouterr().out.endswith("\nfound: nothing\n")


def test_the_json_has_every_finding_and_the_same_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(folder)
    assert run(["check", str(folder), "--no-suggest", "--quiet", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert found["would_spoil"] is True
    assert found["num_images"] == {"test": 9, "train": 39}
    assert found["classes"] == [{"class": "ant", "test": 5, "train": 20}, {"class": "bee", "test": 4, "train": 19}]
    by_kind: dict[str, dict[str, Any]] = {each["kind"]: each for each in found["findings"]}
    assert by_kind.keys() == {"broken", "copies_across_splits", "few_images", "other_file"}
    copies = by_kind["copies_across_splits"]
    assert copies["groups"] == [["train/ant/3.png", "test/ant/3b.png"]]
    assert copies["paths"] == ["train/ant/3.png", "test/ant/3b.png"]
    assert by_kind["broken"]["reasons"] == ["not an image in a supported format"]
    assert {each["severity"] for each in found["findings"]} == {"error", "warning", "note"}
    assert found["suggestion"] is None


def test_long_lists_are_cut_in_the_text_and_whole_in_the_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(30):
        (folder / f"train/{i}.txt").write_text("x")
    run(["check", str(folder), "--no-suggest", "--quiet"])
    assert "\n  and 25 more\n" in capsys.readouterr().out
    run(["check", str(folder), "--no-suggest", "--quiet", "--json"])
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert len(finding["paths"]) == 30


def test_names_from_outside_cannot_change_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train/\x1b[31m.txt").write_text("x")
    run(["check", str(folder), "--no-suggest", "--quiet"])
    assert "\x1b" not in capsys.readouterr().out
    run(["check", str(folder), "--no-suggest", "--quiet", "--json"])
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["paths"] == ["train/\x1b[31m.txt"]


SUGGESTED = Suggestion(
    image_size=(64, 64), model="cct_2_3x2", recipe="fast", epochs=10, device="cpu", images_per_s=500.0, seconds=720.0
)


def test_the_suggestion_is_printed_with_its_duration(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suggest, "suggest_training", lambda *_, **__: [SUGGESTED])
    assert run(["check", str(folder), "--quiet"]) == 0
    assert capsys.readouterr().out.endswith(
        "suggested: --image-size 64 --model cct_2_3x2 --recipe fast --epochs 10\n"
        "  64x64: 10 epochs take about 12 min here (500 images/s on cpu, from a few timed steps)\n"
    )
    assert run(["check", str(folder), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["suggestion"] == SUGGESTED.as_json()


def test_every_flag_of_a_suggestion_is_one_of_train() -> None:
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    known = {flag for option in train.params for flag in option.opts}
    assert {word for word in SUGGESTED.flags.split() if word.startswith("--")} <= known


@pytest.mark.parametrize(
    ("side", "device", "sizes"),
    [
        (20, "cpu", [32]),
        (32, "cpu", [32]),
        (64, "cpu", [64, 32]),
        (3000, "cpu", [96, 64, 32]),
        (3000, "cuda", [224, 128, 96, 64, 32]),
        (100, "cuda", [96, 64, 32]),
    ],
)
def test_a_suggested_size_is_one_that_the_images_can_fill(side: int, device: str, sizes: list[int]) -> None:
    assert sizes_for(side, device) == [(each, each) for each in sizes]


def test_a_few_steps_are_timed_until_a_size_is_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "LONGEST_S", 0)  # nothing is: the last size is suggested
    timed = suggest_training(lambda _: [(12, 12), (8, 8)], name="images", num_classes=2, num_train=4, num_test=2, device="cpu")
    assert [each.image_size for each in timed] == [(12, 12), (8, 8)]
    assert all(each.recipe in RECIPES and each.images_per_s > 0 for each in timed)
    for each in timed:  # 200 epochs of one step of 4 images, then 2 images
        assert each.epochs == 200
        assert "--epochs 200" in each.flags
        assert each.seconds > each.epochs * 4 / each.images_per_s
    monkeypatch.setattr(suggest, "LONGEST_S", 3600)
    assert len(suggest_training(lambda _: [(12, 12), (8, 8)], name="a", num_classes=2, num_train=4, num_test=2)) == 1


def test_a_missing_folder_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "no-such-folder"]) == 2
    assert "no such folder" in capsys.readouterr().err
