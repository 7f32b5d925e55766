"""Fine-tuning: what a frozen backbone leaves to train, and how fast each layer learns."""

import copy
import hashlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cctkit.api import SilentReporter, fit
from cctkit.catalog.models import named_config
from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.augment import Batch
from cctkit.engine.device import DevicePolicy
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError
from cctkit.models.build import build_model
from cctkit.models.convert import convert
from cctkit.models.depth import freeze_backbone
from cctkit.training.optim import make_optimizers, set_lr
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from cctkit.training.step import TrainState, new_state, train_step
from tests.conftest import write_images

POLICY = DevicePolicy(device="cpu", precision="float32", attention="chunked", attention_in_evaluation="chunked", threads=1)
VIT = {"num_layers": 3, "embed_dim": 32, "num_heads": 2, "patch_size": 4}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("cct_2_3x2", {}),
    ("cvt_2_4", {}),
    ("vit_lite_2_4_sine", {}),
    ("tct_1_2x2", {}),
    ("vit", VIT),
]
DROPS = {"dropout": 0.5, "attention_dropout": 0.5, "drop_path": 0.5}


def made(name: str, **options: Any) -> nn.Module:
    return build_model(named_config(name, num_classes=5, image_size=8, **options), seed=0)


def batch() -> Batch:
    images = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(images=images, labels=torch.arange(10) % 5)


def state_of(model: nn.Module, config: TrainConfig) -> TrainState:
    model = POLICY.prepare(model).train()
    average = AveragedModel(model, use_buffers=True) if config.ema else None
    return new_state(model, make_optimizers(model, config), ema=average, policy=POLICY)


def rates(model: nn.Module, config: TrainConfig, *, key: str = "lr") -> dict[str, float]:
    """Every weight's learning rate."""
    groups = [group for optimizer in make_optimizers(model, config) for group in optimizer.param_groups]
    by_id = {id(weight): group[key] for group in groups for weight in group["params"]}
    return {name: by_id[id(weight)] for name, weight in model.named_parameters() if id(weight) in by_id}


# --- frozen backbones


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_with_a_frozen_backbone_the_last_linear_layer_alone_trains(name: str, options: dict[str, Any]) -> None:
    model = made(name, **options)
    freeze_backbone(model)
    head = "heads.head" if name == "vit" else "classifier.fc"
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {f"{head}.weight", f"{head}.bias"}
    assert isinstance(model.get_submodule(head), nn.Linear)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("name", "options"), MODELS)
def test_steps_change_the_head_and_its_average_and_give_the_rest_no_gradient(
    name: str, options: dict[str, Any], optimizer: str
) -> None:
    config = TrainConfig.from_flat({"init": "w", "freeze": "backbone", "optimizer": optimizer, "ema": 0.5, "lr": 0.01})
    model = made(name, **options)
    freeze_backbone(model)
    before = copy.deepcopy(model.state_dict())
    state = state_of(model, config)
    for _ in range(3):
        train_step(state, batch(), config=config, policy=POLICY, lr_factor=1.0)
    assert not state.diverged
    assert state.ema is not None
    for module in (state.model, state.ema.module):
        changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
        assert changed == {key for key, weight in state.model.named_parameters() if weight.requires_grad}
    assert {key for key, weight in state.model.named_parameters() if weight.grad is not None} == changed
    assert sum(len(optimizer.state_dict()["state"]) for optimizer in state.optimizers) == 2


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_a_frozen_backbone_keeps_no_activations_and_its_features_are_those_of_evaluation(
    name: str, options: dict[str, Any]
) -> None:
    """Fails where dropout or drop path of the frozen part is on in training."""
    model = made(name, **options, **DROPS)
    images = batch().images
    expected = model.eval()(images)
    freeze_backbone(model)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        logits = model.train()(images)
    torch.testing.assert_close(logits, expected)
    kept = {tensor.data_ptr(): tensor.numel() for tensor in saved}
    assert sum(kept.values()) <= len(images) * model.config.embed_dim + sum(  # the head's input and its weights
        weight.numel() for weight in model.parameters() if weight.requires_grad
    )


class StopsAfterAnEpoch(SilentReporter):
    """Asks to stop once the first epoch is done, and keeps what it is told."""

    def __init__(self) -> None:
        self.stop = StopRequest()
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.stop.signal_number = signal.SIGTERM


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that begins with the weights of another."""
    folder = tmp_path_factory.mktemp("pretrained")
    write_images(folder / "images", {"cat": 24, "dog": 24, "ant": 24})
    settings = {"dataset": str(folder / "images"), "image_size": 8, "precision": "float32", "batch_size": 16}
    fit(output=folder / "run", epochs=1, **settings)
    return settings | {"init": str(folder / "run" / "weights.safetensors")}


@pytest.mark.parametrize("changes", [{"freeze": "backbone"}, {"layer_decay": 0.7, "optimizer": "muon"}], ids=str)
def test_a_fine_tuning_run_goes_on_after_a_stop_as_if_there_had_been_none(
    changes: dict[str, Any], pretrained: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"epochs": 2, "ema": 0.9, "optimizer": "adamw", **pretrained, **changes}
    whole = fit(output=tmp_path / "whole", **settings)
    reporter = StopsAfterAnEpoch()
    request = Request(flags=settings, file_values={}, output=tmp_path / "parts")
    with pytest.raises(StoppedError):
        start_run(request, reporter=reporter, stop=reporter.stop)
    resume_run(tmp_path / "parts", {}, reporter=reporter, stop=StopRequest())
    digests = [hashlib.sha256((tmp_path / run / "weights.safetensors").read_bytes()).hexdigest() for run in ("whole", "parts")]
    assert digests[0] == digests[1]
    if "freeze" in changes:  # 128 wide, three classes
        assert whole["trained_params"] == 387
        told = "the backbone is frozen, without dropout; AdamW trains the head: 387 of "
        assert [line.startswith(told) for line in reporter.notices].count(True) == 2
        assert json.loads((tmp_path / "whole" / "result.json").read_text())["params"]["total"] > 100_000
    else:
        assert whole["trained_params"] == whole["params"]["total"]


# --- layer-wise learning rates


def test_the_rates_of_a_cct_are_these() -> None:
    """0.5 ** (2 + 1 - depth), by hand; sequence pooling is the head's, the last norm the last block's."""
    scales = {"tokenizer": 0.125, "positional_emb": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "norm": 0.5}
    scales |= {"attention_pool": 1.0, "fc": 1.0}
    config = TrainConfig.from_flat({"layer_decay": 0.5, "lr": 0.008})
    found = rates(made("cct_2_3x2"), config)
    for name, rate in found.items():
        part = name.removeprefix("classifier.")
        expected = next(scale for prefix, scale in scales.items() if part == prefix or part.startswith(f"{prefix}."))
        assert rate == pytest.approx(0.008 * expected), name
    assert len(found) == len(list(made("cct_2_3x2").parameters()))


def test_muons_matrices_follow_the_same_scales() -> None:
    config = TrainConfig.from_flat({"layer_decay": 0.5, "lr": 0.008, "muon_lr": 0.04, "optimizer": "muon"})
    found = rates(made("cct_2_3x2"), config)
    assert found["classifier.blocks.0.linear1.weight"] == pytest.approx(0.01)
    assert found["classifier.blocks.1.self_attn.qkv.weight"] == pytest.approx(0.02)
    assert found["classifier.blocks.1.linear1.bias"] == pytest.approx(0.004)
    assert found["classifier.attention_pool.weight"] == found["classifier.fc.weight"] == 0.008


@pytest.mark.parametrize("name", ["vit", "cct_2_3x2"])
def test_muon_takes_every_matrix_of_the_blocks_and_none_beside(name: str) -> None:
    model = made(name, **(VIT if name == "vit" else {}))
    optimizers = make_optimizers(model, TrainConfig.from_flat({"optimizer": "muon"}))
    names = {id(weight): key for key, weight in model.named_parameters()}
    taken = {names[id(weight)] for group in optimizers[1].param_groups for weight in group["params"]}
    block = ".encoder_layer_" if name == "vit" else ".blocks."
    assert taken == {key for key, weight in model.named_parameters() if block in key and weight.ndim == 2}
    assert len(taken) == 4 * (3 if name == "vit" else 2)


def test_the_scales_of_a_vit_are_timms() -> None:
    timm, optim = pytest.importorskip("timm"), pytest.importorskip("timm.optim")
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=5
    )
    names = {id(weight): key for key, weight in theirs.named_parameters()}
    groups = optim.param_groups_layer_decay(theirs, layer_decay=0.65)
    expected = {names[id(weight)]: group["lr_scale"] for group in groups for weight in group["params"]}
    ours = made("vit", **VIT)
    # Each weight of timm's filled with its scale, through the conversion of `--init`: the names need no second table.
    state = {key: torch.full_like(value, expected[key]) for key, value in theirs.state_dict().items()}
    scales = convert(state, config=ours.config, expected=ours.state_dict(), where="timm").tensors
    found = rates(ours, TrainConfig.from_flat({"layer_decay": 0.65, "lr": 1.0}))
    assert found.keys() == scales.keys()
    for key, scale in found.items():
        assert scales[key].flatten()[0].item() == pytest.approx(scale), key
    assert sorted(set(found.values())) == pytest.approx([0.65**4, 0.65**3, 0.65**2, 0.65, 1.0])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_schedule_multiplies_each_groups_own_rate(optimizer: str) -> None:
    config = TrainConfig.from_flat({"layer_decay": 0.5, "optimizer": optimizer})
    optimizers = make_optimizers(made("cct_2_3x2"), config)
    peaks = [group["lr"] for each in optimizers for group in each.param_groups]
    assert len(set(peaks)) > 3
    set_lr(optimizers, 0.1)
    set_lr(optimizers, 0.25)
    assert [group["lr"] for each in optimizers for group in each.param_groups] == pytest.approx([0.25 * peak for peak in peaks])


def test_without_decay_there_are_the_groups_that_there_always_were() -> None:
    groups = make_optimizers(made("cct_2_3x2"), TrainConfig())[0].param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(5e-4, 0.03), (5e-4, 0.0)]


def test_a_step_moves_each_layer_by_its_rate() -> None:
    """AdamW's first step is the rate in each entry, whatever the gradient."""
    config = TrainConfig.from_flat({"layer_decay": 0.5, "lr": 0.008, "weight_decay": 0.0, **dict.fromkeys(DROPS, 0.0)})
    state = state_of(made("cct_2_3x2"), config)
    before = copy.deepcopy(state.model.state_dict())
    train_step(state, batch(), config=config, policy=POLICY, lr_factor=0.5)
    for name, depth in (("blocks.0.linear1.weight", 1), ("blocks.1.linear2.bias", 2), ("fc.weight", 3)):
        moved = (state.model.state_dict()[f"classifier.{name}"] - before[f"classifier.{name}"]).abs()
        assert moved.max().item() == pytest.approx(0.004 * 0.5 ** (3 - depth), rel=1e-2)
