"""The losses of a small run on the digits, written down before later changes: what was right stays as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cctkit.api import fit
from tests.probes import write_probe

SETTINGS: dict[str, Any] = {
    "model": "cct_2_3x2", "dataset": "digits", "image_size": 8, "batch_size": 128, "epochs": 2, "optimizer": "adamw",
    "lr": 2e-3, "auto_augment": "cifar10", "crop": "pad", "crop_padding": 1, "mixup": 0.5, "random_erase": 0.0,
    "dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.2, "label_smoothing": 0.1, "threads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "train_losses", "test_loss"),
    [
        ("chunked", [2.311832189228339, 2.259954184583895], 2.183962483980532),
        ("plain", [2.311851856937329, 2.2594005494522285], 2.1822795408408586),
    ],
)
def test_a_run_in_float32_has_the_losses_that_it_always_had(
    path: str, train_losses: list[float], test_loss: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AVX-512, AVX2 and neither they differ by 3e-8; by other masks of dropout, which `path` has, by 1e-3."""
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, f"float32,{path}")))
    threads = torch.get_num_threads()
    try:
        result = fit(output=tmp_path / "run", recipe="fast", **SETTINGS)
    finally:
        torch.set_num_threads(threads)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["train_loss"] for record in records] == pytest.approx(train_losses, rel=1e-5)
    assert result["loss"] == pytest.approx(test_loss, rel=1e-5)
    assert result["top1_percent"] == pytest.approx(100 * 106 / 359)
