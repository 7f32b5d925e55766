"""What a run does with classes of different size: the weights of its loss, its batches, and the epoch that it keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cctkit.api import fit
from cctkit.training import loop
from tests.conftest import write_images

SETTINGS: dict[str, Any] = {"model": "cct_2_3x2", "image_size": 8, "batch_size": 8, "recipe": "fast"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", {"large": 18, "small": 6}, size=(8, 8))
    write_images(root / "test", {"large": 2, "small": 2}, size=(8, 8), seed=1)
    return root


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], torch.Tensor | None]]:
    """The labels and class weights of every training step."""
    taken: list[tuple[list[int], torch.Tensor | None]] = []
    real = loop.train_step

    def step(state: Any, batch: Any, **options: Any) -> None:
        taken.append((batch.labels.tolist(), options["class_weights"]))
        real(state, batch, **options)

    monkeypatch.setattr(loop, "train_step", step)
    return taken


def counts(steps: list[tuple[list[int], torch.Tensor | None]]) -> list[int]:
    labels = [label for batch, _ in steps for label in batch]
    return [labels.count(0), labels.count(1)]


def test_by_default_every_image_is_seen_once_with_the_same_weight(folder: Path, tmp_path: Path, steps: Any) -> None:
    fit(dataset=str(folder), output=tmp_path / "run", epochs=1, **SETTINGS)
    assert counts(steps) == [18, 6]
    assert all(weights is None for _, weights in steps)


def test_class_weights_reach_every_step(folder: Path, tmp_path: Path, steps: Any) -> None:
    fit(dataset=str(folder), output=tmp_path / "run", epochs=1, class_weights=1.0, **SETTINGS)
    assert counts(steps) == [18, 6]
    assert [weights.tolist() for _, weights in steps] == [pytest.approx([24 / 36, 24 / 12])] * 3  # n / (K * count)


def test_balanced_sampling_fills_the_epoch_with_every_class_alike(folder: Path, tmp_path: Path, steps: Any) -> None:
    fit(dataset=str(folder), output=tmp_path / "run", epochs=2, balanced_sampling=1.0, **SETTINGS)
    assert [len(labels) for labels, _ in steps] == [8] * 6
    assert counts(steps[:3]) == counts(steps[3:]) == [12, 12]
    assert steps[:3] != steps[3:]


@pytest.mark.parametrize(
    ("choose_by", "key", "sign"),
    [("top1", "top1_percent", 1), ("balanced", "balanced_accuracy_percent", 1), ("loss", "loss", -1)],
)
def test_the_kept_epoch_is_the_best_by_the_chosen_figure(
    choose_by: str, key: str, sign: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of the four epochs are given: by each of them another epoch is the best."""
    given = {"top1_percent": [1, 9, 2, 3], "balanced_accuracy_percent": [1, 2, 9, 3], "loss": [9.0, 2.0, 3.0, 1.0]}
    real, calls = loop._record, [0]

    def record(*arguments: Any) -> dict[str, Any]:
        calls[0] += 1
        return real(*arguments) | {f"val_{name}": values[calls[0] - 1] for name, values in given.items()}

    monkeypatch.setattr(loop, "_record", record)
    settings = SETTINGS | {"dataset": str(folder), "val_fraction": 0.2, "choose_by": choose_by}
    result = fit(output=tmp_path / "run", epochs=4, **settings)
    best = max(range(4), key=lambda epoch: sign * given[key][epoch]) + 1
    assert (result["epoch"], result["chosen_by"]) == (best, "validation")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["values"]["choose_by"] == choose_by
