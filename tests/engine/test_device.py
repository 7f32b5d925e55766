"""The device policy: measured once, kept, and obeyed."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cctkit.catalog.models import named_config
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.splits import Dataset
from cctkit.engine import probe
from cctkit.engine.device import DevicePolicy, assumed_policy, choose_policy
from cctkit.errors import StoppedError, UserError
from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.models.build import build_model
from cctkit.training import loop
from tests.probes import write_probe


@pytest.mark.parametrize("attention", ATTENTION_IMPLS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_each_answer_of_the_probe_is_obeyed_but_no_mask_comes_from_torchs_own_kernel(
    attention: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, f"{precision},{attention}")))
    quiet, dropping = choose_policy(device="cpu", dropout=False), choose_policy(device="cpu", dropout=True)
    assert quiet.precision == dropping.precision == precision
    assert quiet.attention == quiet.attention_in_evaluation == dropping.attention_in_evaluation == attention
    assert dropping.attention == {"fused": "chunked"}.get(attention, attention)


def test_a_wish_wins_over_the_probe() -> None:
    assert choose_policy(device="cpu", precision="bf16").precision == "bf16"
    assert choose_policy(device="cpu", precision="float32").precision == "float32"


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="fp16 needs"):
        choose_policy(device="cpu", precision="fp16")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="not available"):
            choose_policy(device="cuda")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device": "gpu"}, "unknown device 'gpu', expected one of: auto, cuda, mps, cpu"),
        ({"device": "cpu", "precision": "fp32"}, "unknown precision 'fp32', expected one of: auto, float32, bf16, fp16"),
    ],
)
def test_a_word_that_is_no_device_or_precision_is_refused_by_naming_those_there_are(
    asked: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choose_policy(**asked)


@pytest.mark.parametrize("dropout", [False, True])
def test_what_is_assumed_of_a_cpu_is_what_was_measured_or_said_and_nothing_is_measured_or_set(
    dropout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(probe, "measure", lambda: pytest.fail("measured"))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("set"))
    monkeypatch.setattr("cctkit.engine.device.available_device", lambda: "cpu")
    policy, note = assumed_policy(dropout=dropout)
    assert (policy.precision, policy.attention, policy.threads) == ("float32", "chunked", torch.get_num_threads())
    assert note is not None
    assert "assumed" in note
    assert list(tmp_path.iterdir()) == []
    write_probe(tmp_path, "bf16,fused")
    policy, note = assumed_policy(dropout=dropout)
    assert (policy.precision, policy.attention, note) == ("bf16", "chunked" if dropout else "fused", None)


def test_what_is_assumed_of_an_accelerator_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cctkit.engine.device.available_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    policy, note = assumed_policy(dropout=True)
    assert (policy.device, policy.precision, policy.attention, note) == ("cuda", "bf16", "fused", None)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_evaluating_leaves_the_model_as_it_was() -> None:
    policy = choose_policy(device="cpu")
    model = policy.prepare(build_model(named_config("cct_2_3x2"), seed=0)).train()
    with policy.evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert model.training
    assert model.tokenizer.attention_impl == policy.attention


@pytest.mark.parametrize(
    ("kind", "workers", "free_bytes", "held"),
    [
        ("cuda", 0, 4 * 1797 * 3 * 16 * 16, True),
        ("cuda", 0, 4 * 1797 * 3 * 16 * 16 - 1, False),
        ("cuda", 1, 10**12, False),
        ("cpu", 0, 10**12, False),
    ],
)
def test_the_images_are_held_on_a_cuda_device_where_they_take_a_quarter_of_its_memory(
    kind: str, workers: int, free_bytes: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device is in the place of CUDA's."""
    dataset = load_dataset(DataConfig(dataset="digits", image_size=(16, 16), val_fraction=0.1))
    policy = DevicePolicy(device=kind, precision="float32", attention="fused", attention_in_evaluation="fused", threads=1)
    on = Dataset.on
    monkeypatch.setattr(Dataset, "on", lambda self, _device, **most: on(self, "meta", **most))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, 10**12))
    placed = policy.hold(dataset, workers=workers)
    for split in (placed.train, placed.val, placed.test):
        assert split is not None
        assert split.take(np.arange(3)).device.type == ("meta" if held else "cpu")
    assert placed.train.labels is dataset.train.labels
    assert (placed is dataset) != held


@pytest.mark.parametrize("stopped", [False, True])
def test_training_leaves_the_devices_generator_as_it_was(stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator of the CPU is in the place of CUDA's, and a few masks in that of training."""
    generator = torch.Generator().manual_seed(3)
    monkeypatch.setattr(torch.cuda, "manual_seed", generator.manual_seed)
    monkeypatch.setattr(torch.cuda, "get_rng_state", generator.get_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", generator.set_state)
    policy = DevicePolicy(device="cuda", precision="float32", attention="fused", attention_in_evaluation="fused", threads=1)

    def begin(*_: object, **__: object) -> Any:
        torch.cuda.manual_seed(7)
        torch.rand(5, generator=generator)
        if stopped:
            raise StoppedError(15)
        return SimpleNamespace(), SimpleNamespace(epochs_done=0, best=None)

    monkeypatch.setattr(loop, "begin", begin)
    monkeypatch.setattr(loop, "_report_start", lambda _: None)
    with pytest.raises(StoppedError) if stopped else contextlib.nullcontext():
        loop.fit(SimpleNamespace(policy=policy, config=SimpleNamespace(epochs=0)))  # type: ignore[arg-type]
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())
