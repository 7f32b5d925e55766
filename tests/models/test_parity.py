"""The models compute what the published implementation computes, on weights and images in closed form."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cctkit.models.build import create_model, set_attention_impl

# Logits, losses and gradient norms of SHI-Labs/Compact-Transformers, computed by it in float64.
CASES = json.loads((Path(__file__).parents[1] / "golden" / "parity.json").read_text())["cases"]


def uniform(number: int, seed: float) -> np.ndarray:
    index = np.arange(1, number + 1, dtype=np.float64)
    value = np.sin(index * 12.9898 + seed * 78.233) * 43758.5453
    return value - np.floor(value)


def seed_of(text: str) -> float:
    return (zlib.crc32(text.encode()) % 1000) / 7.0


def weight(salt: str, key: str, shape: list[int]) -> torch.Tensor:
    values = uniform(int(np.prod(shape)), seed_of(salt + key))
    if key.endswith(("norm.weight", "norm1.weight")):
        values = 0.75 + 0.5 * values
    else:
        bound = 0.2 if len(shape) == 1 or "emb" in key else np.sqrt(3 / np.prod(shape[1:]))
        values = (values - 0.5) * 2 * bound
    return torch.tensor(values.astype(np.float32)).view(shape)


def loaded(case: dict[str, Any]) -> torch.nn.Module:
    model = create_model(case["model"], num_classes=case["num_classes"], image_size=case["image_size"])
    model.load_state_dict({key: weight(case["salt"], key, shape) for key, shape in case["keys"].items()})
    return model.eval()


def images(case: dict[str, Any]) -> torch.Tensor:
    shape = (case["batch"], 3, case["image_size"], case["image_size"])
    values = 4 * uniform(int(np.prod(shape)), seed_of(case["salt"] + "image")) - 2
    return torch.tensor(values.astype(np.float32)).view(shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['model']}-{case['image_size']}")
@pytest.mark.parametrize("path", ["plain", "fused", "chunked"])
def test_logits_loss_and_gradients_are_the_published_ones(case: dict[str, Any], path: Any) -> None:
    model = loaded(case).double()
    set_attention_impl(model, path)
    logits = model(images(case).double())
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(case["batch"]) % case["num_classes"], label_smoothing=0.1)
    loss.backward()
    torch.testing.assert_close(logits.detach(), torch.tensor(case["logits"], dtype=torch.float64), atol=1e-6, rtol=0)
    assert loss.item() == pytest.approx(case["loss"], abs=1e-9)
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert norms == pytest.approx(case["grad_norms"], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['model']}-{case['image_size']}")
def test_float32_logits_are_within_two_in_a_hundred_thousand(case: dict[str, Any]) -> None:
    with torch.no_grad():
        logits = loaded(case)(images(case))
    torch.testing.assert_close(logits, torch.tensor(case["logits"]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['model']}-{case['image_size']}")
def test_the_state_dict_has_the_published_keys_and_shapes(case: dict[str, Any]) -> None:
    model = create_model(case["model"], num_classes=case["num_classes"], image_size=case["image_size"])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == case["keys"]
