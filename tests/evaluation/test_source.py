"""A weights file evaluated on a folder: on the images that it was trained with, and on others."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cctkit.catalog.models import named_config
from cctkit.cli.app import run as command
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.images import pack_dataset
from cctkit.data.packed.read import open_packed
from cctkit.errors import UserError
from cctkit.evaluation.source import EvalConfig, evaluate_source
from cctkit.models.build import build_model
from cctkit.models.weights import WeightsInfo, save_weights
from cctkit.runs.predictions import read_predictions
from cctkit.runs.rundir import RunDir
from cctkit.text import safe_text
from cctkit.training.result import dataset_info
from tests.conftest import write_images


def weights_of(data: DataConfig, path: Path, *, temperature: float | None = None) -> Path:
    """A weights file, untrained, as of a run on `data`."""
    dataset = load_dataset(data)
    config = named_config("cct_2_3x2", num_classes=len(dataset.class_names))
    info = WeightsInfo(
        model=config,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        resize_mode="crop",
        dataset=dataset_info(dataset),
        recipe=None,
        metrics={} if temperature is None else {"temperature": temperature},
    )
    save_weights(path, tensors=build_model(config, seed=0).state_dict(), info=info)
    return path


def images_of(
    weights: Path, folder: Path, *, split: str | None = None, skip_bad: bool = False, said: list[str] | None = None
) -> set[str]:
    """The ids of the images that an evaluation looks at."""
    predictions = weights.with_name(".predictions.safetensors")
    predictions.unlink(missing_ok=True)
    config = EvalConfig(
        data=DataConfig(dataset=str(folder), skip_bad=skip_bad), split=split, device="cpu", save_predictions=predictions
    )
    evaluate_source(weights, config, notify=(said if said is not None else []).append, progress=lambda *_: None)
    return set(read_predictions(predictions).ids)


def strip_digest(path: Path) -> None:
    """As versions before the digests wrote the file."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["cctkit"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["digest"]
    save_file(tensors, path, {"cctkit": json.dumps(header, sort_keys=True)})


def test_weights_without_a_digest_are_evaluated_and_said_to_be_unverified_once(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    said: list[str] = []
    seen = images_of(weights, tmp_path / "a", said=said)
    assert said == []
    strip_digest(weights)
    assert images_of(weights, tmp_path / "a", said=said) == seen
    assert said == [f"{weights} has no checksums (an earlier version wrote it): not verified"]


def test_loss_and_calibration_error_come_before_and_after_the_temperature(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 40, "dog": 40, "eel": 40})
    data = DataConfig(dataset=str(tmp_path / "a"), val_fraction=0.25)
    weights = weights_of(data, tmp_path / "with.safetensors", temperature=0.125)
    said: list[str] = []
    config = EvalConfig(data=data, save_predictions=tmp_path / "p.safetensors")
    result = evaluate_source(weights, config, notify=said.append, progress=lambda *_: None)
    predictions = read_predictions(tmp_path / "p.safetensors")
    logits, labels = torch.from_numpy(predictions.logits).double(), torch.from_numpy(predictions.labels)
    assert result["temperature"] == 0.125
    assert result["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert result["calibrated_loss"] == pytest.approx(torch.nn.functional.cross_entropy(8 * logits, labels).item())
    assert result["calibrated_loss"] != pytest.approx(result["loss"], rel=0.01)
    assert result["calibrated_ece"] != pytest.approx(result["ece"], rel=0.01)
    without = weights_of(data, tmp_path / "without.safetensors")
    plain = evaluate_source(without, EvalConfig(data=data), notify=said.append, progress=lambda *_: None)
    assert said == []
    same = result.keys() - {"images_per_s", "temperature", "calibrated_loss", "calibrated_ece"}
    assert {key: plain[key] for key in same} == {key: result[key] for key in same}
    assert (plain["temperature"], plain["calibrated_loss"], plain["calibrated_ece"]) == (None, None, None)
    for split in ("val", "all"):
        evaluate_source(weights, EvalConfig(data=data, split=split), notify=said.append, progress=lambda *_: None)
    assert said == ["the temperature was fitted on the validation images: figures with it are too good on them"] * 2


def test_the_images_above_a_confidence_are_those_to_which_predict_gives_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "a", {"cat": 40, "dog": 40, "eel": 40}, size=(32, 32))
    data = DataConfig(dataset=str(tmp_path / "a"))
    weights = weights_of(data, tmp_path / "w.safetensors", temperature=0.125)
    config = EvalConfig(data=data, save_predictions=tmp_path / "p.safetensors", min_confidence=0.5)
    ids = [str(tmp_path / "a" / name) for name in images_of(weights, tmp_path / "a")]
    assert command(["predict", *ids, "--model", str(weights), "--json", "-q"]) == 0
    confidences = sorted(json.loads(line)["probability"] for line in capsys.readouterr().out.splitlines())
    for least in (confidences[5], (confidences[9] + confidences[10]) / 2, 0.0, 1.0):
        expected = sum(each >= least for each in confidences)
        config = EvalConfig(data=data, min_confidence=least, precision="float32")
        found = evaluate_source(weights, config, notify=lambda _: None, progress=lambda *_: None)["confident"]
        assert (found["num_images"], found["left"]["num_images"]) == (expected, len(ids) - expected)


def test_a_confidence_that_is_no_probability_is_an_error(tmp_path: Path) -> None:
    for value in (-0.1, 1.1, float("nan")):
        config = EvalConfig(data=DataConfig(), min_confidence=value)
        with pytest.raises(UserError, match=r"min_confidence is .*, expected 0 to 1"):
            evaluate_source(tmp_path, config, notify=lambda _: None, progress=lambda *_: None)


def test_damaged_weights_are_not_evaluated(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="the weights file is damaged: its bytes are not those that were written"):
        images_of(weights, tmp_path / "a")


def test_other_images_may_have_validation_images_of_their_own(tmp_path: Path) -> None:
    """Of a model that was trained with --val-fraction, which such a folder excludes."""
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    for seed, side in enumerate(("train", "val", "test")):
        write_images(tmp_path / "b" / side, {"cat": 2, "dog": 2}, seed=1 + seed)
    data = DataConfig(dataset=str(tmp_path / "a"), val_fraction=0.25)
    weights = weights_of(data, tmp_path / "weights.safetensors")
    assert images_of(weights, tmp_path / "b", split="val") == {f"val/{name}/{i}.png" for name in ("cat", "dog") for i in (0, 1)}
    validation = load_dataset(data).val
    assert validation is not None
    assert images_of(weights, tmp_path / "a", split="val") == set(validation.ids())


def test_other_images_without_a_test_part_are_evaluated_all_and_it_is_said(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_images(tmp_path / name, {"cat": 10, "dog": 10}, seed=seed)
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    everything = {f"{name}/{i}.png" for name in ("cat", "dog") for i in range(10)}
    said: list[str] = []
    assert images_of(weights, tmp_path / "b", said=said) == everything
    assert said == [
        "b has no test part and is not what the model was trained with: all of its images are evaluated",
        "whether the model was trained on some of these images: not checked, without seen.safetensors of its run",
    ]
    for split in ("test", "train"):
        assert images_of(weights, tmp_path / "b", split=split) < everything


def test_of_its_own_images_a_model_is_evaluated_on_those_that_it_was_not_trained_with(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    data = DataConfig(dataset=str(tmp_path / "a"))
    weights = weights_of(data, tmp_path / "weights.safetensors")
    said: list[str] = []
    test = load_dataset(data).test
    assert test is not None
    assert images_of(weights, tmp_path / "a", said=said) == set(test.ids())
    assert not said
    assert len(images_of(weights, tmp_path / "a", split="all")) == 20


def test_broken_images_can_be_left_out_as_in_training(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    (tmp_path / "a" / "cat" / "broken.png").write_text("no image")
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a"), skip_bad=True), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="--skip-bad"):
        images_of(weights, tmp_path / "a")
    assert len(images_of(weights, tmp_path / "a", skip_bad=True)) == 4


def test_a_folder_of_images_in_the_place_of_a_run_is_named_as_none(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match=r"not a run directory.*--dataset FOLDER"):
        evaluate_source(tmp_path / "a", EvalConfig(data=DataConfig()), notify=lambda _: None, progress=lambda *_: None)


def test_of_many_classes_that_are_new_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 2, "dog": 2})
    write_images(tmp_path / "b", dict.fromkeys("hgfedcba", 2))
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="does not know 8 classes of the images: a, b, c, d, e and 3 more"):
        images_of(weights, tmp_path / "b")


def test_a_new_class_is_an_error_that_names_it_and_one_like_it(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 2, "dog": 2})
    write_images(tmp_path / "b", {"cats": 2, "dog": 2})
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="does not know 1 class of the images: cats") as caught:
        images_of(weights, tmp_path / "b")
    assert caught.value.remedy == "rename or leave out their folders; 'cats' is like 'cat'"


def test_classes_that_other_images_lack_are_named_and_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"ant": 2, "bee": 2, "cat": 2})
    write_images(tmp_path / "b" / "test", {"bee": 3, "cat": 4}, seed=1)
    write_images(tmp_path / "b" / "train", {"bee": 1, "cat": 1}, seed=2)
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    said: list[str] = []
    config = EvalConfig(data=DataConfig(dataset=str(tmp_path / "b")), device="cpu", save_predictions=tmp_path / "p")
    result = evaluate_source(weights, config, notify=said.append, progress=lambda *_: None)
    assert said[-1] == "not in the images, and left out: ant; an image that is taken for one of them counts as wrong"
    assert (result["missing_classes"], result["num_images"]) == (["ant"], 7)
    assert {row["class"] for row in result["worst_classes"]} == {"bee", "cat"}
    predictions = read_predictions(tmp_path / "p")
    assert predictions.class_names == ("ant", "bee", "cat")
    assert sorted(predictions.labels.tolist()) == [1, 1, 1, 2, 2, 2, 2]
    right = (predictions.logits.argmax(axis=1) == predictions.labels).sum()
    assert result["top1_percent"] == pytest.approx(100 * right / 7)


def test_predictions_are_csv_where_the_name_says_so_without_formulas(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"=1+1": 5, "caf\udce9\u202e": 5})
    weights = weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "weights.safetensors")
    for name in ("p.csv", "p"):
        config = EvalConfig(data=DataConfig(dataset=str(tmp_path / "a")), device="cpu", save_predictions=tmp_path / name)
        evaluate_source(weights, config, notify=lambda _: None, progress=lambda *_: None)
    expected = read_predictions(tmp_path / "p")
    text = (tmp_path / "p.csv").read_bytes().decode()
    assert text.replace("\n", "").isprintable()
    head, *lines = csv.reader(io.StringIO(text))
    assert head == ["id", "label", "predicted", "logit =1+1", r"logit caf\udce9\u202e"]
    assert [line[0] for line in lines] == [
        f"'{safe_text(each)}" if each[0] == "=" else safe_text(each) for each in expected.ids
    ]
    assert [[np.float32(cell) for cell in line[3:]] for line in lines] == expected.logits.tolist()
    names = ["'=1+1", r"caf\udce9\u202e"]
    assert [line[1] for line in lines] == [names[label] for label in expected.labels]
    assert [line[2] for line in lines] == [names[row.argmax()] for row in expected.logits]


@pytest.mark.parametrize("name", ["p", "p.csv", "folder", "no/p.csv"])
def test_a_place_for_predictions_that_is_taken_is_refused_before_anything_is_done(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for taken in ("p", "p.csv"):
        (tmp_path / taken).write_text("precious")
    config = EvalConfig(data=DataConfig(), save_predictions=tmp_path / name)
    with pytest.raises(UserError, match=r"nothing is overwritten|there is no directory"):
        evaluate_source(tmp_path / "no weights", config, notify=lambda _: None, progress=lambda *_: None)
    assert {(tmp_path / taken).read_text() for taken in ("p", "p.csv")} == {"precious"}


def test_the_newest_run_is_evaluated_by_default_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "a", {"cat": 10, "dog": 10})
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("new", "old")):
        with RunDir.create(tmp_path / "runs" / name) as run:
            run.write_json(run.config, {"values": {"dataset": str(tmp_path / "a")}, "recipe": None})
            os.utime(run.config, (10 - age, 10 - age))
    said: list[str] = []
    for name in ("old", "new"):
        weights_of(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "runs" / name / "weights.safetensors")
    with pytest.raises(UserError, match=r"env\.json"):
        evaluate_source(None, EvalConfig(data=DataConfig()), notify=said.append, progress=lambda *_: None)
    assert said == ["using the newest run, runs/new"]


def test_weights_and_predictions_are_read_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    write_images(tmp_path / "caf\udce9", {"cat": 10, "dog": 10})
    data = DataConfig(dataset=str(tmp_path / "caf\udce9"))
    weights = weights_of(data, tmp_path / "caf\udce9" / ".weights.safetensors")
    assert len(images_of(weights, tmp_path / "caf\udce9")) == 4
    packed = pack_dataset(data, tmp_path / "caf\udce9.safetensors")
    assert torch.equal(open_packed(packed.path).images, packed.images)
