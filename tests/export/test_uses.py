"""An ONNX file in the place of a run: `predict` and `Classifier`."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.deployed import torch_logits
from cctkit.cli.app import run
from cctkit.prediction.classifier import Classifier
from tests.export.conftest import CLASSES, Exported


def test_predict_gives_the_classes_of_the_weights_for_every_file(
    exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for source in (exported.weights, exported.onnx):
        assert run(["predict", str(exported.images), "--model", str(source), "--precision", "float32", "--json", "-q"]) == 0
        rows.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert len(rows[0]) == len(exported.files)
    assert [(row["path"], row["class"]) for row in rows[1]] == [(row["path"], row["class"]) for row in rows[0]]
    for of_weights, of_onnx in zip(*rows, strict=True):
        assert of_onnx["probability"] == pytest.approx(of_weights["probability"], abs=1e-5)


def test_a_classifier_takes_the_file(exported: Exported, tmp_path: Path) -> None:
    classifier = Classifier(exported.onnx)
    assert tuple(classifier.classes) == CLASSES
    found = [each.class_name for each in classifier.predict(list(exported.files))]
    logits, *_ = torch_logits(exported.weights, exported.files)
    assert found == [CLASSES[i] for i in torch.argmax(logits, dim=1).tolist()]
