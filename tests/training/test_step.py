"""One training step: what it computes, what it withholds, and what its randomness depends on."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from cctkit.catalog.models import named_config
from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.augment import Batch
from cctkit.engine.device import DevicePolicy
from cctkit.errors import UserError
from cctkit.evaluation.losses import losses
from cctkit.models.build import build_model, set_attention_impl
from cctkit.training import step as step_module
from cctkit.training.checkpoint import Checkpoint
from cctkit.training.optim import make_optimizers, set_lr
from cctkit.training.state import History, pack, unpack
from cctkit.training.step import TrainState, ema_decay, new_state, step_seed, train_step

POLICY = DevicePolicy(device="cpu", precision="float32", attention="chunked", attention_in_evaluation="chunked", threads=1)


def state_of(config: TrainConfig, *, ema: bool = False, dtype: torch.dtype = torch.float32) -> TrainState:
    architecture = named_config(
        "cct_2_3x2",
        num_classes=5,
        image_size=8,
        attention_dropout=config.model.attention_dropout,
        drop_path=config.model.drop_path,
    )
    model = POLICY.prepare(build_model(architecture, seed=0)).to(dtype).train()
    average = AveragedModel(model, use_buffers=True) if ema else None
    return new_state(model, make_optimizers(model, config), ema=average, policy=POLICY)


def batch_of(number: int = 12, *, mixed: bool = False, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % 5
    images = torch.randn(number, 3, 8, 8, generator=generator).to(dtype, memory_format=torch.channels_last)
    if not mixed:
        return Batch(images=images, labels=labels)
    return Batch(images=images, labels=labels, partner_labels=labels.flip(0), lam=torch.full((number,), 0.3))


def run(state: TrainState, config: TrainConfig, *, steps: int = 1, batch: Batch | None = None) -> None:
    for _ in range(steps):
        train_step(state, batch or batch_of(), config=config, policy=POLICY, lr_factor=1.0)


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_step_is_torchs_own_without_randomness() -> None:
    config = TrainConfig.from_flat({"attention_dropout": 0.0, "drop_path": 0.0, "decay_all": True, "lr": 1e-3})
    state = state_of(config, dtype=torch.float64)
    model = copy.deepcopy(state.model)
    set_attention_impl(model, "plain")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.03)
    batch = batch_of(dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.1).backward()
        optimizer.step()
    run(state, config, steps=3, batch=batch)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state.model.state_dict()[name], tensor, rtol=0, atol=1e-11)  # measured: 3e-13


@pytest.mark.parametrize("mixed", [False, True])
def test_losses_are_torchs_cross_entropies(mixed: bool) -> None:
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    batch = batch_of(mixed=mixed)
    target = torch.nn.functional.one_hot(batch.labels, 5).float()
    if batch.partner_labels is not None:
        target = 0.3 * target + 0.7 * torch.nn.functional.one_hot(batch.partner_labels, 5)
    plain, smoothed, _, objective = losses(logits, batch.labels, batch.partner_labels, batch.lam, label_smoothing=0.1)
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(plain, cross_entropy(logits, target, reduction="none"))
    torch.testing.assert_close(smoothed, cross_entropy(logits, target, reduction="none", label_smoothing=0.1))
    assert objective is smoothed


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_multiply_the_loss_of_each_label(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, weights = torch.randn(12, 5, generator=generator), torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25])
    options: dict[str, Any] = {"label_smoothing": smoothing, "class_weights": weights}
    batch, cross_entropy = batch_of(mixed=True), torch.nn.functional.cross_entropy
    own = weights[batch.labels] * cross_entropy(logits, batch.labels, reduction="none", label_smoothing=smoothing)
    found = losses(logits, batch.labels, **options)
    torch.testing.assert_close(found.objective, own)
    if smoothing == 0:
        torch.testing.assert_close(found.objective, cross_entropy(logits, batch.labels, weight=weights, reduction="none"))
    assert batch.partner_labels is not None
    partner = cross_entropy(logits, batch.partner_labels, reduction="none", label_smoothing=smoothing)
    mixed = losses(logits, batch.labels, batch.partner_labels, batch.lam, **options)
    torch.testing.assert_close(mixed.objective, 0.3 * own + 0.7 * weights[batch.partner_labels] * partner)
    plain = losses(logits, batch.labels, batch.partner_labels, batch.lam, label_smoothing=smoothing)
    assert torch.equal(mixed.smoothed, plain.smoothed)  # what is reported stays comparable


@pytest.mark.parametrize("accumulate", [1, 5])
def test_a_step_with_class_weights_minimises_the_weighted_mean(accumulate: int) -> None:
    config = TrainConfig.from_flat(
        {"attention_dropout": 0.0, "drop_path": 0.0, "decay_all": True, "lr": 1e-3, "accumulate": accumulate}
    )
    state, weights = state_of(config, dtype=torch.float64), torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25])
    model = copy.deepcopy(state.model)
    set_attention_impl(model, "plain")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.03)
    batch = batch_of(dtype=torch.float64)
    each = torch.nn.functional.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.1, reduction="none")
    (each * weights[batch.labels]).mean().backward()
    optimizer.step()
    train_step(state, batch, config=config, policy=POLICY, lr_factor=1.0, class_weights=weights)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state.model.state_dict()[name], tensor, rtol=0, atol=1e-10)


def test_a_batch_in_parts_is_the_batch_whole() -> None:
    values = {"attention_dropout": 0.0, "drop_path": 0.0}
    whole, parts = TrainConfig.from_flat(values), TrainConfig.from_flat(values | {"accumulate": 5})
    first, second = state_of(whole, dtype=torch.float64), state_of(parts, dtype=torch.float64)
    batch = batch_of(dtype=torch.float64)
    run(first, whole, batch=batch)
    run(second, parts, batch=batch)
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], tensor, rtol=0, atol=1e-12)  # measured: 4e-14
    torch.testing.assert_close(first.sums, second.sums, rtol=0, atol=1e-13)  # measured: 4e-15


def test_masks_depend_on_seed_step_and_rank_alone() -> None:
    assert len({step_seed(0, 0), step_seed(0, 1), step_seed(1, 0), step_seed(0, 0, 1)}) == 4
    config = TrainConfig.from_flat({"attention_dropout": 0.5, "drop_path": 0.5})
    first, second = state_of(config), state_of(config)
    torch.manual_seed(1)
    run(first, config, steps=2)
    torch.manual_seed(2)
    run(second, config, steps=2)
    assert equal(weights(first), weights(second))


@pytest.mark.parametrize("muon", [False, True])
def test_a_checkpoint_holds_all_that_the_next_step_depends_on(muon: bool) -> None:
    config = TrainConfig.from_flat({"optimizer": "muon" if muon else "adamw", "ema": 0.9, "drop_path": 0.3})
    state = state_of(config, ema=True)
    run(state, config, steps=3)
    tensors, values = pack(state, History(epochs_done=1))
    stored = {name: {key: tensor.clone().contiguous() for key, tensor in part.items()} for name, part in tensors.items()}
    run(state, config, steps=2)
    other = state_of(config, ema=True)

    class Found:
        pass

    found: Any = Found()
    found.tensors, found.state = stored, values
    assert unpack(found, other, steps=3).epochs_done == 1
    run(other, config, steps=2)
    assert equal(weights(state), weights(other))
    assert state.ema is not None
    assert other.ema is not None
    assert equal(dict(state.ema.state_dict()), dict(other.ema.state_dict()))
    assert torch.equal(state.sums, other.sums)
    torch.testing.assert_close(state.norms, other.norms, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e4])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_poisoned_step_is_withheld_and_flagged(
    poison: float, where: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when `_update` steps without looking. A spike is a gradient ten thousand times the usual one."""
    config = TrainConfig.from_flat({"optimizer": optimizer})
    state = state_of(config)
    run(state, config, steps=10)
    before, moments = weights(state), copy.deepcopy([o.state_dict()["state"] for o in state.optimizers])
    real = losses

    def poisoned(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        return found._replace(smoothed=found.smoothed * poison, objective=found.objective * poison)

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * poison

    if where == "loss":
        monkeypatch.setattr(step_module, "losses", poisoned)
        run(state, config)
    else:
        handles = [weight.register_hook(hook) for weight in state.model.parameters()]
        run(state, config)
        for handle in handles:
            handle.remove()
    assert bool(state.diverged)
    assert equal(weights(state), before)
    for optimizer_before, now in zip(moments, state.optimizers, strict=True):
        for index, values in now.state_dict()["state"].items():
            for key, value in values.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimizer_before[index][key]))


def test_the_learning_rate_of_every_group_is_its_peak_times_the_factor() -> None:
    config = TrainConfig.from_flat({"optimizer": "muon", "lr": 2e-3, "muon_lr": 0.05})
    optimizers = state_of(config).optimizers
    set_lr(optimizers, 0.5)
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [1e-3, 1e-3, 0.025]


def test_norms_biases_and_embeddings_are_not_decayed() -> None:
    config = TrainConfig()
    state = state_of(config)
    names = {id(weight): name for name, weight in state.model.named_parameters()}
    plain = [names[id(weight)] for weight in state.optimizers[0].param_groups[1]["params"]]
    decayed = [names[id(weight)] for weight in state.optimizers[0].param_groups[0]["params"]]
    assert "classifier.positional_emb" in plain
    assert all("norm" in name or name.endswith(("bias", "_emb")) for name in plain)
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    spared = make_optimizers(state.model, TrainConfig.from_flat({"decay_embeddings": True}))[0].param_groups[1]["params"]
    # timm/optim/_param_groups.py, param_groups_weight_decay: "param.ndim <= 1 or name.endswith('.bias')"
    timms = [name for name, weight in state.model.named_parameters() if weight.ndim <= 1 or name.endswith(".bias")]
    assert [names[id(weight)] for weight in spared] == timms
    everything = make_optimizers(state.model, TrainConfig.from_flat({"decay_all": True}))[0].param_groups
    assert len(everything) == 1


def test_muon_takes_the_blocks_matrices_alone() -> None:
    state = state_of(TrainConfig.from_flat({"optimizer": "muon"}))
    names = {id(weight): name for name, weight in state.model.named_parameters()}
    taken = {names[id(weight)] for weight in state.optimizers[1].param_groups[0]["params"]}
    parts = ("self_attn.qkv", "self_attn.proj", "linear1", "linear2")
    assert taken == {f"classifier.blocks.{i}.{part}.weight" for i in (0, 1) for part in parts}


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"step": 4}, 3),
        ({"step": -1}, 3),
        ({"epochs_done": "1"}, 3),
        ({"scaler": None}, 3),
        ({}, 2),  # a run whose batch size was changed by hand
    ],
)
def test_a_checkpoint_of_other_settings_is_an_error(change: dict[str, Any], steps: int) -> None:
    state = state_of(TrainConfig())
    tensors, values = pack(state, History())
    found = Checkpoint(path=Path("step-000000003"), step=3, tensors=tensors, state=values | {"step": 3} | change)
    unpack(replace(found, state=values | {"step": 3}), state, steps=3)
    with pytest.raises(UserError, match="does not fit the run's settings"):
        unpack(found, state, steps=steps)


def test_a_checkpoint_of_another_model_is_an_error() -> None:
    state = state_of(TrainConfig())
    tensors, values = pack(state, History())
    for part in (tensors | {"model": {}}, {name: part for name, part in tensors.items() if name != "optimizer"}):
        with pytest.raises(UserError, match="does not fit the run's settings"):
            unpack(Checkpoint(path=Path("step-0"), step=0, tensors=part, state=values), state, steps=3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("earlier_steps", [0, 3])
@pytest.mark.parametrize("ok", [True, False])
def test_elsewhere_than_on_a_cpu_a_step_is_withheld_without_asking(optimizer: str, earlier_steps: int, ok: bool) -> None:
    """What other devices do, on the CPU: weights and moments are those of an `if`, also after a gradient of NaN."""
    config = TrainConfig.from_flat({"optimizer": optimizer})
    state, other = state_of(config), state_of(config)
    for each in (state, other):
        run(each, config, steps=earlier_steps)
        for weight in each.model.parameters():
            weight.grad = torch.full_like(weight, 0.1 if ok else float("nan"))
    for each, twin in zip(state.optimizers, other.optimizers, strict=True):
        step = step_module._step_fused_where if each.defaults.get("fused") else step_module._step_and_put_back
        step(each, torch.tensor(ok))
        if ok:
            twin.step()
    assert equal(weights(state), weights(other))
    for each, twin in zip(state.optimizers, other.optimizers, strict=True):
        for weight, twin_weight in zip(state.model.parameters(), other.model.parameters(), strict=True):
            for key, value in each.state[weight].items():
                assert torch.equal(value, twin.state[twin_weight].get(key, torch.zeros_like(value)))


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        (0.9999, 0, 0.1),
        (0.9999, 1, 2 / 11),
        (0.9999, 8, 0.5),
        (0.9999, 3909, 3910 / 3919),
        (0.9999, 10**6, 0.9999),
        (0.3, 8, 0.3),
    ],
)
def test_the_ema_decay_is_tensorflows(decay: float, step: int, expected: float) -> None:
    """`tf.train.ExponentialMovingAverage`: min(decay, (1 + num_updates) / (10 + num_updates))."""
    assert ema_decay(decay, step) == pytest.approx(expected)


def test_of_3910_steps_at_a_decay_of_0_9999_the_first_weights_are_gone() -> None:
    """With one decay throughout they were 68% of the average."""
    assert pytest.approx(0.676, abs=0.001) == 0.9999**3909
    assert math.prod(ema_decay(0.9999, step) for step in range(1, 3910)) < 1e-20


def test_the_moving_average_begins_with_the_first_weights_and_follows_the_rule() -> None:
    config = TrainConfig.from_flat({"ema": 0.2})
    state = state_of(config, ema=True)
    expected = {name: tensor.double() for name, tensor in weights(state).items()}
    for decay in (0.1, 2 / 11, 0.2, 0.2):  # the third is min(0.2, 3 / 12)
        run(state, config)
        now = weights(state)
        expected = {name: decay * tensor + (1 - decay) * now[name].double() for name, tensor in expected.items()}
    assert state.ema is not None
    assert state.result is state.ema.module
    for name, tensor in state.result.state_dict().items():
        torch.testing.assert_close(tensor, expected[name].float())
    assert state.ema.n_averaged.item() == 4


@pytest.mark.parametrize(("scale", "diverges"), [(2.0**16, False), (0.5, True)])
def test_under_a_scaler_an_overflow_lowers_the_scale_and_a_scale_under_one_is_divergence(scale: float, diverges: bool) -> None:
    config = TrainConfig()
    state = state_of(config)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = weights(state)
    handle = next(state.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    run(state, config)
    handle.remove()
    assert equal(weights(state), before)
    assert (bool(state.diverged), state.scaler.get_scale()) == (diverges, scale / 2)
    run(state, config)
    assert equal(weights(state), before) == diverges
