"""The predicted memory of a training step, against the allocator's figures of a real one and against hand-made counts."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cctkit.bench.training import training_peak_bytes
from cctkit.catalog.models import named_config
from cctkit.config.settings import TrainConfig
from cctkit.engine.device import DevicePolicy
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.summary.memory import largest_batch, memory_policy, predict_memory
from cctkit.summary.summary import summarize
from tests.probes import write_probe


def policy_of(dtype: str = "float32", attention: str = "plain", device: str = "cpu") -> DevicePolicy:
    return DevicePolicy(
        device=device,
        precision=dtype,  # type: ignore[arg-type]
        attention=attention,  # type: ignore[arg-type]
        attention_in_evaluation="plain",
        threads=1,
    )


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("name", "attention", "optimizer"),
    [
        ("cct_2_3x2", "chunked", "adamw"),
        ("cct_2_3x2", "fused", "adamw"),
        ("cct_4_3x2", "plain", "muon"),
        ("vit_lite_6_4", "chunked", "adamw"),
    ],
)
def test_the_prediction_is_within_ten_percent_of_a_real_step(name: str, attention: str, optimizer: str, dtype: str) -> None:
    policy = policy_of(dtype, attention)
    config = named_config(name, num_classes=100)
    real = training_peak_bytes(config, TrainConfig.from_flat({"optimizer": optimizer}), policy, batch_size=24)
    with torch.device("meta"):
        model = build_model(config)
    predicted = predict_memory(model, image_size=(32, 32), batch_size=24, policy=policy, optimizer=optimizer)
    assert predicted.peak_bytes == pytest.approx(real, rel=0.1)


def test_samples_that_drop_path_skips_take_no_memory() -> None:
    """Of six blocks whose rates grow from 0 to 0.9 a real step keeps about half of what is kept without drop path."""
    policy, config = policy_of(attention="chunked"), named_config("vit_lite_6_4", num_classes=100, drop_path=0.9)
    real = training_peak_bytes(config, TrainConfig(), policy, batch_size=64)
    memory = summarize(config, policy=policy, batch_size=64).memory
    assert memory is not None
    assert memory.peak_bytes == pytest.approx(real, rel=0.1)


def test_on_cuda_drop_path_skips_nothing() -> None:
    def activations(drop_path: float) -> int:
        config = named_config("vit_lite_6_4", num_classes=100, drop_path=drop_path)
        memory = summarize(config, policy=policy_of(attention="fused", device="cuda"), batch_size=64).memory
        assert memory is not None
        return memory.activations_bytes

    assert activations(0.9) >= activations(0.0)


def test_the_parts_of_a_linear_model_are_those_computed_by_hand() -> None:
    """8 x 48 floats through a bias-free 48 -> 10: nothing is kept but the images, labels and logits."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10, bias=False))
    memory = predict_memory(model, image_size=(4, 4), batch_size=8, policy=policy_of())
    weights = 48 * 10 * 4
    assert memory.weights_bytes == memory.gradients_bytes == weights
    # Two moments and a counter; the trainer's 64 norms (float32), 4 sums (float64) and one flag.
    assert memory.optimizer_bytes == 2 * weights + 4 + 64 * 4 + 4 * 8 + 1
    flattened = 8 * 48 * 4  # a copy: the images are channels_last
    # Images, labels, logits, and the step's own sums and flag of a finite loss.
    assert memory.activations_bytes == 8 * 48 * 4 + flattened + 8 * 8 + 8 * 10 * 4 + 4 * 8 + 1
    assert memory.peak_bytes >= weights + memory.optimizer_bytes + memory.activations_bytes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_step_can_be_predicted_with_gradients_disabled(mode: type) -> None:
    config = named_config("cct_2_3x2", num_classes=100)
    expected = summarize(config, policy=policy_of()).memory
    with mode():
        assert summarize(config, policy=policy_of()).memory == expected


@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_without_a_policy_nothing_is_measured_written_or_set_and_the_assumption_is_noted(
    attention_dropout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr("cctkit.engine.probe.measure", lambda: pytest.fail("measured"))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("set"))
    monkeypatch.setattr("cctkit.engine.device.available_device", lambda: "cpu")
    config = named_config("cct_2_3x2", num_classes=100, attention_dropout=attention_dropout)
    summary = summarize(config, batch_size=8)
    expected = summarize(config, batch_size=8, policy=policy_of(attention="chunked"))
    assert summary.memory == expected.memory
    assert (len(summary.notes), expected.notes) == (1, ())
    assert "assumed" in summary.notes[0]
    assert summary.notes[0] in str(summary)
    assert list(tmp_path.iterdir()) == []
    write_probe(tmp_path, "bf16,fused")
    measured = summarize(build_model(config), batch_size=8)
    assert measured.memory is not None
    assert (measured.memory.dtype, measured.memory.attention) == ("bf16", "chunked" if attention_dropout else "fused")
    assert measured.notes == ()


class _Named(nn.Module):
    """A model of a user's with a submodule, and in it an attribute, that are called as our attention's choice is."""

    def __init__(self) -> None:
        super().__init__()
        self.path = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.path[0].path = "somewhere"
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.path[0].path == "somewhere"
        return self.head(self.path(x))  # type: ignore[no-any-return]


def test_a_users_module_named_path_is_not_changed() -> None:
    summary = summarize(_Named(), image_size=8, policy=policy_of(attention="chunked"))
    assert (summary.params, summary.layers[0].path) == (3 * 4 * 9 + 4 + 4 * 10 + 10, "path.0")
    assert summary.memory is not None


def test_frozen_weights_have_no_gradients_and_no_state() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    whole = summarize(model, image_size=8, policy=policy_of()).memory
    model[0].requires_grad_(False)
    frozen = summarize(model, image_size=8, policy=policy_of()).memory
    assert whole is not None
    assert frozen is not None
    assert frozen.gradients_bytes == 4 * (64 * 10 + 10)
    assert frozen.optimizer_bytes < whole.optimizer_bytes
    assert frozen.peak_bytes < whole.peak_bytes


def test_attention_that_keeps_no_weights_needs_less_on_cuda() -> None:
    def peak(attention: str, dtype: str) -> int:
        policy = policy_of(dtype, attention, "cuda")
        memory = summarize(named_config("cct_6_3x1", num_classes=100), batch_size=64, policy=policy).memory
        assert memory is not None
        assert memory.device == "cuda"
        return memory.peak_bytes

    weights_of_attention = 6 * 64 * 4 * 256 * 256  # layers, images, heads, tokens squared
    assert peak("plain", "bf16") - peak("fused", "bf16") > weights_of_attention * 2
    assert peak("fused", "float32") > 1.4 * peak("fused", "bf16")


@pytest.mark.parametrize("limit", [0, 99, 100, 101, 5_000, 12_345, 1_000_000])
def test_the_largest_batch_is_the_last_that_fits(limit: int) -> None:
    def peak(batch: int) -> int:  # of small batches the optimizer's peak, and an odd step in the line
        return max(100, 40 + 7 * batch + (50 if batch > 300 else 0))

    asked: list[int] = []
    largest = largest_batch(lambda batch: asked.append(batch) or peak(batch), limit)  # type: ignore[func-returns-value]
    assert largest == max((batch for batch in range(1, 200_000) if peak(batch) <= limit), default=0)
    assert len(asked) < 12


def test_a_batch_that_fits_does_and_one_more_image_does_not() -> None:
    config, limit = named_config("cct_2_3x2", num_classes=100), 200 * 2**20
    summary = summarize(config, policy=policy_of(), fit_bytes=limit)

    def peak(batch: int) -> int:
        memory = summarize(config, policy=policy_of(), batch_size=batch).memory
        assert memory is not None
        return memory.peak_bytes

    assert summary.fitting_batch is not None
    assert peak(summary.fitting_batch) <= limit < peak(summary.fitting_batch + 1)


def test_a_device_that_this_machine_lacks_can_be_predicted() -> None:
    policy = memory_policy(device="cuda")
    assert (policy.device, policy.precision, policy.attention) == ("cuda", "bf16", "fused")
    assert memory_policy(device="cpu", dtype="bf16", attention="plain").attention == "plain"


def test_fp16_is_predicted_for_a_cuda_device_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert memory_policy(device="cuda").precision == "fp16"


@pytest.mark.parametrize("wish", [{"device": "tpu"}, {"dtype": "int8"}, {"attention": "flash"}])
def test_an_invalid_choice_is_an_error(wish: dict[str, str]) -> None:
    with pytest.raises(UserError, match="is not one of auto"):
        memory_policy(**wish)


def test_a_model_that_is_not_a_classifier_is_an_error() -> None:
    with pytest.raises(UserError, match="memory of this model cannot be predicted"):
        summarize(nn.Conv2d(3, 3, 1), image_size=8, policy=policy_of())
