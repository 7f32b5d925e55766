"""A run tells which of its test images it was trained on, and `eval` leaves such images out of other data sets."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cctkit import api
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset, split_images
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError, UserError
from cctkit.runs.predictions import read_predictions
from cctkit.training import prepare
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from tests.conftest import write_images

TINY = {"model": "cct_2_3x2", "image_size": "8", "batch_size": 8, "device": "cpu", "precision": "float32", "seed": 3}


class Notes(api.SilentReporter):
    """Keeps what is said; asks for a stop after the first step where there is one to ask."""

    log_every_s = 0.0

    def __init__(self, stop: StopRequest | None = None) -> None:
        self.said: list[str] = []
        self.stop = stop

    def notice(self, text: str) -> None:
        self.said.append(text)

    def progress(self, now: Any) -> None:
        if self.stop is not None:
            self.stop.signal_number = 15


def train(folder: Path, output: Path, *, stop: bool = False, **flags: Any) -> tuple[dict[str, Any], list[str]]:
    """The result of a run, and what it has said."""
    request = Request(flags=TINY | {"dataset": str(folder), **flags}, file_values={}, recipe="report", output=output)
    asked = StopRequest()
    notes = Notes(asked if stop else None)
    _, result = start_run(request, reporter=notes, stop=asked)
    return result, notes.said


def copied(source: Path, target: Path) -> None:
    """The same image under another name, in another format."""
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(source).save(target)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on train/, val/ and test/, of which 2 of 6 test images are in train/; beside it `other`, another data set."""
    root = tmp_path_factory.mktemp("copies")
    for seed, (side, number) in enumerate({"train": 8, "val": 2, "test": 2}.items()):
        write_images(root / "images" / side, {"cat": number, "dog": number}, size=(8, 8), seed=seed)
    copied(root / "images" / "train" / "cat" / "3.png", root / "images" / "test" / "cat" / "a.bmp")
    copied(root / "images" / "train" / "cat" / "4.png", root / "images" / "test" / "dog" / "b.bmp")
    write_images(root / "other", {"cat": 3, "dog": 3}, size=(8, 8), seed=9)
    for side, number in (("train", 5), ("val", 1), ("test", 0)):
        copied(root / "images" / side / "dog" / f"{number}.png", root / "other" / "dog" / f"{side}.bmp")
    result, said = train(root / "images", root / "run", epochs=1)
    assert sum("2 of the 6 test images are in train too, 1 under another class" in text for text in said) == 1
    assert result["copies_in_train"] == 2
    return root / "run"


def test_the_result_has_the_accuracy_on_the_images_that_are_not_in_train(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    predictions = read_predictions(run / "predictions.safetensors")
    right = [
        bool(logits.argmax() == label)
        for name, label, logits in zip(predictions.ids, predictions.labels, predictions.logits, strict=True)
        if not name.endswith(".bmp")
    ]
    assert len(right) == 4
    assert result["top1_percent_without_copies"] == 100 * sum(right) / 4
    assert result["copies"] == [
        {"image": "test/cat/a.bmp", "in_train": "train/cat/3.png"},
        {"image": "test/dog/b.bmp", "in_train": "train/cat/4.png"},
    ]
    again = api.evaluate(run)
    names = ("copies_in_train", "copies_of_another_class", "copies", "top1_percent_without_copies")
    assert [again[name] for name in names] == [result[name] for name in names]
    assert result["copies_of_another_class"] == 1


def evaluated(source: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], list[str], set[str]]:
    """The result of an evaluation, what it says, and the images it is of."""
    from cctkit.evaluation.source import EvalConfig, evaluate_source

    said: list[str] = []
    predictions = source.parent / "other-predictions.safetensors"
    predictions.unlink(missing_ok=True)
    config = EvalConfig(data=DataConfig(dataset=str(folder)), device="cpu", save_predictions=predictions, **options)
    result = evaluate_source(source, config, notify=said.append, progress=lambda *_: None)
    return result, said, set(read_predictions(predictions).ids)


def test_of_another_data_set_the_images_trained_on_are_left_out_and_counted(run: Path) -> None:
    result, said, ids = evaluated(run, run.parent / "other")
    everything = {f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)} | {"dog/val.bmp", "dog/test.bmp"}
    assert ids == everything  # validation images were not trained on
    assert result["num_images"] == 8
    assert (result["seen_in_training"], result["seen_included"]) == (1, False)
    assert said[-1] == "left out 1 of 9 images, on which the run was trained (--include-seen keeps them)"
    result, said, ids = evaluated(run, run.parent / "other", include_seen=True)
    assert ids == everything | {"dog/train.bmp"}
    assert (result["seen_in_training"], result["seen_included"]) == (1, True)
    assert "1 of these 9 images" in said[-1]


def test_where_all_images_were_trained_on_nothing_is_evaluated(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run.parent / "images" / "train", tmp_path / "seen")
    with pytest.raises(UserError, match=r"trained on all of these 16 images.*--include-seen") as caught:
        evaluated(run, tmp_path / "seen")
    assert caught.value.exit_code == 2
    assert evaluated(run, tmp_path / "seen", include_seen=True)[0]["num_images"] == 16


def test_without_the_list_it_is_said_that_nothing_was_checked(run: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(run, older)
    (older / "seen.safetensors").unlink()
    for source in (older, run / "weights.safetensors"):
        result, said, ids = evaluated(source, run.parent / "other")
        assert len(ids) == result["num_images"] == 9
        assert (result["seen_in_training"], result["seen_included"]) == (None, None)
        assert "not checked" in said[-1]


def test_the_runs_own_images_are_not_asked_to_be_included(run: Path) -> None:
    for folder in (None, run.parent / "images"):
        with pytest.raises(UserError, match="--include-seen"):
            api.evaluate(run, dataset=folder and str(folder), include_seen=True)


def test_a_streamed_run_says_that_it_cannot_check(run: Path, tmp_path: Path) -> None:
    result, said = train(run.parent / "images", tmp_path / "run", epochs=1, stream=True, workers=0)
    assert (result["copies_in_train"], result["top1_percent_without_copies"]) == (None, None)
    assert any("not checked" in text for text in said)
    assert not (tmp_path / "run" / "seen.safetensors").exists()


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """Ten images of each class, each twice."""
    folder = tmp_path / "twice"
    write_images(folder, {"cat": 10, "dog": 10}, size=(8, 8))
    for path in sorted(folder.rglob("*.png")):
        copied(path, path.with_suffix(".bmp"))
    return folder


def test_the_split_of_a_run_is_kept_with_it_and_parts_no_copies(twice: Path, tmp_path: Path) -> None:
    result, said = train(twice, tmp_path / "run", epochs=1)
    assert (result["num_images"], result["copies_in_train"]) == (8, 0)
    assert result["top1_percent_without_copies"] == result["top1_percent"]
    assert any("20 of the 40 images are copies of others; copies are kept in one split" in text for text in said)
    env = json.loads((tmp_path / "run" / "env.json").read_text())
    assert env["dataset"]["split_rule"] == 2
    assert api.evaluate(tmp_path / "run" / "weights.safetensors", dataset=str(twice))["loss"] == result["loss"]


def test_a_run_from_before_goes_on_and_is_evaluated_with_the_split_that_it_had(
    twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_dataset(DataConfig(dataset=str(twice), image_size=(8, 8)), split_rule=1)
    assert before.test is not None
    monkeypatch.setattr(prepare, "split_images", partial(split_images, split_rule=1))
    run = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(twice, run, epochs=2, stop=True)
    env = json.loads((run / "env.json").read_text())
    del env["dataset"]["split_rule"]
    (run / "env.json").write_text(json.dumps(env))
    _, result = resume_run(run, {}, reporter=Notes(), stop=StopRequest())
    assert set(read_predictions(run / "predictions.safetensors").ids) == set(before.test.ids())
    assert result["copies_in_train"] > 0
    evaluated = api.evaluate(run / "weights.safetensors", dataset=str(twice))
    assert (evaluated["loss"], evaluated["copies_in_train"]) == (result["loss"], result["copies_in_train"])


def test_a_rule_of_a_later_version_stops_a_resume(run: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    shutil.copytree(run, later)
    env = json.loads((later / "env.json").read_text())
    env["dataset"]["split_rule"] = 3
    (later / "env.json").write_text(json.dumps(env))
    with pytest.raises(UserError, match="rule 3, this version supports 1 and 2"):
        resume_run(later, {}, reporter=Notes(), stop=StopRequest())


def test_a_start_that_fails_leaves_no_list_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cctkit.training.run.environment", lambda *_, **__: np.zeros(1)[1])  # after the list is written
    with pytest.raises(IndexError):
        train(run.parent / "images", tmp_path / "new", epochs=1)
    assert not (tmp_path / "new").exists()


def test_where_the_classes_differ_that_is_said_and_nothing_of_copies(run: Path, tmp_path: Path) -> None:
    from cctkit.evaluation.source import EvalConfig, evaluate_source

    write_images(tmp_path / "pets", {"cat": 3, "wolf": 3}, size=(8, 8))
    said: list[str] = []
    config = EvalConfig(data=DataConfig(dataset=str(tmp_path / "pets")), split="all", device="cpu")
    with pytest.raises(UserError, match="wolf"):
        evaluate_source(run / "weights.safetensors", config, notify=said.append, progress=lambda *_: None)
    assert said == []
