"""The programs of examples/ do what they say, on small data."""

import runpy
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cctkit import load
from cctkit.errors import StoppedError
from cctkit.runs.predictions import read_predictions
from tests.conftest import write_images

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


def test_the_example_classifies_an_image_as_the_evaluation_does(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"dark": 10, "light": 10}, size=(20, 12))  # neither square nor of the model's size
    example = runpy.run_path(str(EXAMPLES / "train_from_python.py"))
    settings = {"image_size": 16, "batch_size": 8, "epochs": 1, "precision": "float32"}
    example["main"](tmp_path / "images", tmp_path / "images" / "dark" / "0.png", tmp_path / "run", **settings)
    predictions = read_predictions(tmp_path / "run" / "predictions.safetensors")
    model, info = load(tmp_path / "run")
    for name, logits in zip(predictions.ids, torch.from_numpy(predictions.logits), strict=True):
        found, probability = example["classify"](model, info, tmp_path / "images" / name)
        assert found == info.class_names[int(logits.argmax())]
        assert probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-6)


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
