"""`examples/onnx_without_torch.py` gives the classes of torch from image files of every kind, and a mistake in it is found."""

import ast
import runpy
from pathlib import Path

import pytest
import torch

from benchmarks.deployed import EXAMPLE, KINDS, MISTAKES, compare, torch_logits, with_mistake
from tests.export.conftest import Exported

Logits = tuple[torch.Tensor, tuple[str, ...], float | None]


@pytest.fixture(scope="module")
def in_torch(exported: Exported) -> Logits:
    return torch_logits(exported.weights, exported.files)


def found_by(text: str, exported: Exported, folder: Path) -> list[tuple[str, float]]:
    (folder / "example.py").write_text(text, encoding="utf-8")
    classify = runpy.run_path(str(folder / "example.py"))["classify"]
    return [(name, probability) for _, name, probability in classify(str(exported.onnx), exported.files)]


def test_the_example_needs_neither_torch_nor_this_package_and_is_short() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    imported = {name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"collections.abc", "json", "sys", "numpy", "onnxruntime", "PIL"}
    assert len(text.splitlines()) <= 60


def test_the_example_gives_the_classes_of_torch_for_files_of_every_kind(
    exported: Exported, in_torch: Logits, tmp_path: Path
) -> None:
    changed, close, difference = compare(found_by(EXAMPLE.read_text(encoding="utf-8"), exported, tmp_path), *in_torch)
    assert (changed, close) == (0, 0)
    assert difference < 1e-5
    assert {Path(file).stem.split("-", 1)[1] for file in exported.files} == set(KINDS)
    assert in_torch[0].argmax(dim=1).bincount(minlength=5).min() > 5  # so that a changed class can be seen


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_example_changes_classes(mistake: str, exported: Exported, in_torch: Logits, tmp_path: Path) -> None:
    changed, _, difference = compare(found_by(with_mistake(mistake), exported, tmp_path), *in_torch)
    assert changed > 0
    assert difference > 0.01
