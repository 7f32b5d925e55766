"""The programs of examples/ do what they say, on small data."""

import csv
import hashlib
import runpy
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import CIFAR100

from cctkit import fit
from cctkit.errors import StoppedError
from cctkit.runs.predictions import read_predictions
from cctkit.runs.runfiles import read_metrics
from tests.conftest import write_images
from tests.data.python2 import python2_file

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"epochs": 1, "image_size": [16, 16]}


def test_training_from_python_classifies_an_image_of_a_class_that_it_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", {"dark": 20, "light": 20})
    main = runpy.run_path(str(EXAMPLES / "train_from_python.py"))["main"]
    image = tmp_path / "images" / "light" / "0.png"
    name, probability = main(tmp_path / "images", image, tmp_path / "run", image_size=16, batch_size=8, epochs=3)
    assert name == "light"
    assert 0.5 < probability <= 1
    assert "8 test images" in capsys.readouterr().out


def test_a_tracker_of_ones_own_writes_each_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images", {"dark": 20, "light": 20}, size=(8, 8))
    main = runpy.run_path(str(EXAMPLES / "own_tracker.py"))["main"]
    result = main(tmp_path / "images", tmp_path / "run", image_size=8, batch_size=16, epochs=2)
    rows = list(csv.DictReader((tmp_path / "run" / "epochs.csv").read_text().splitlines()))
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(row["epoch"], float(row["val_loss"])) for row in rows] == [
        ("1", records[0]["val_loss"]),
        ("2", records[1]["val_loss"]),
    ]
    assert f"top-1 {result['top1_percent']:.2f}%" in capsys.readouterr().out
    again = main(tmp_path / "images", tmp_path / "run")
    assert again["top1_percent"] == result["top1_percent"]
    assert list(csv.DictReader((tmp_path / "run" / "epochs.csv").read_text().splitlines())) == rows


def test_images_are_classified_as_the_evaluation_does_also_through_a_data_loader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", {"dark": 10, "light": 10}, size=(20, 12))  # neither square nor of the model's size
    settings = {"image_size": 16, "batch_size": 8, "epochs": 1, "precision": "float32"}
    fit(dataset=str(tmp_path / "images"), output=tmp_path / "run", **settings)
    main = runpy.run_path(str(EXAMPLES / "classify.py"))["main"]
    found, logits = main(tmp_path / "run", tmp_path / "images")
    assert len(found) == len(logits) == 20
    expected = read_predictions(tmp_path / "run" / "predictions.safetensors")
    lines = capsys.readouterr().out.splitlines()
    rows = {Path(line.split("  ")[0]).relative_to(tmp_path / "images").as_posix(): i for i, line in enumerate(lines)}
    for name, row in zip(expected.ids, expected.logits, strict=True):
        assert found[rows[name]].class_name == expected.class_names[row.argmax()]
        for each in (found[rows[name]].logits, logits[rows[name]].numpy()):
            assert each == pytest.approx(row, rel=0, abs=1e-5)


def test_a_model_of_ones_own_trains_and_resumes_to_the_weights_of_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = runpy.run_path(str(EXAMPLES / "own_model.py"))
    forward, steps = module["SmallConvNet"].forward, 0

    def stop_at_step_10(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += model.training
        if steps == 10:
            signal.raise_signal(signal.SIGINT)
        return forward(model, images)  # type: ignore[no-any-return]

    top1 = module["main"](tmp_path / "unbroken", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(module["SmallConvNet"], "forward", stop_at_step_10)
        with pytest.raises(StoppedError):
            module["main"](tmp_path / "broken", **SMALL)
    assert not (tmp_path / "broken" / "own_model.safetensors").exists()
    assert module["main"](tmp_path / "broken", **SMALL) == top1
    found, expected = (load_file(tmp_path / name / "own_model.safetensors") for name in ("broken", "unbroken"))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_cifar100_becomes_a_folder_with_the_names_of_its_authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"bos_taurus_s_000507.png": "cattle", "apple_s_000027.png": "apple", "ox_s_000001.png": "cattle"}
    classes = ["apple", "cattle"]
    pixels = np.random.default_rng(0).integers(0, 256, (len(files), 3072), dtype=np.uint8)
    batch = {"filenames": list(files), "fine_labels": [classes.index(name) for name in files.values()], "data": pixels}
    batches = {"train": batch, "test": batch, "meta": {"fine_label_names": classes}}
    place = tmp_path / "downloads" / "cifar-100-python"
    place.mkdir(parents=True)
    for name, value in batches.items():
        (place / name).write_bytes(python2_file(value))
    md5 = {name: hashlib.md5((place / name).read_bytes()).hexdigest() for name in batches}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})

    runpy.run_path(str(EXAMPLES / "cifar100_folder.py"))["main"](tmp_path / "downloads", tmp_path / "images")
    written = {path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.png")}
    assert written == {f"{split}/{folder}/{name}" for split in ("train", "test") for name, folder in files.items()}
    for row, (name, folder) in zip(pixels, files.items(), strict=True):
        image = np.asarray(Image.open(tmp_path / "images" / "test" / folder / name))
        assert np.array_equal(image, row.reshape(3, 32, 32).transpose(1, 2, 0))
