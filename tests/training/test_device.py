"""The device policy: measured once, kept, and obeyed; the CUDA path as far as fake tensors go."""

import json
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cctkit.catalog.models import named_config
from cctkit.config import TrainConfig
from cctkit.errors import UserError
from cctkit.models.build import build_model, set_path
from cctkit.training import device
from cctkit.training.device import Probe, choose_policy
from cctkit.training.optim import make_optimizers


def test_the_probe_measures_once_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    first = device.probe()
    assert first.precision in ("float32", "bf16")
    assert len(json.loads((tmp_path / "probe.json").read_text())) == 1
    monkeypatch.setattr(device, "measure", lambda: pytest.fail("measured again"))
    assert device.probe() == first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}'])
def test_a_spoilt_memory_of_the_probe_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    answer = Probe(precision="float32", attention="fused", attention_with_dropout="chunked")
    monkeypatch.setattr(device, "measure", lambda: answer)
    (tmp_path / "probe.json").write_text(content)
    assert device.probe() == answer
    assert device.probe() == answer


def test_a_wish_wins_over_the_probe() -> None:
    assert choose_policy(device="cpu", precision="bf16").precision == "bf16"
    assert choose_policy(device="cpu", precision="float32").precision == "float32"


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="fp16 needs"):
        choose_policy(device="cpu", precision="fp16")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="not available"):
            choose_policy(device="cuda")


def test_evaluating_leaves_the_model_as_it_was() -> None:
    policy = choose_policy(device="cpu")
    model = policy.prepare(build_model(named_config("cct_2_3x2"), seed=0)).train()
    with policy.evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert model.training
    assert model.tokenizer.path == policy.attention


def test_forward_and_optimizer_step_stay_on_a_faked_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails on any tensor that is made on the CPU within the step. Backward, autocast and pinning cannot be faked."""
    config = TrainConfig.from_flat({"optimizer": "adamw"})
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # it looks at the values
    with FakeTensorMode(allow_non_fake_inputs=False):
        with torch.device("cuda"):
            model = build_model(named_config("cct_2_3x2", attention_dropout=0.1, drop_path=0.1)).train()
        set_path(model, "fused")
        images = torch.empty(4, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)
        logits = model(images)
        assert logits.device.type == "cuda"
        for weight in model.parameters():
            weight.grad = torch.empty_like(weight)
        make_optimizers(model, config)[0].step()
        assert all(weight.device.type == "cuda" for weight in model.parameters())
