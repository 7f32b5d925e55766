"""The configuration: every setting is checked where it is made, and comes back whole from JSON and TOML."""

import dataclasses
import math
import typing
from pathlib import Path
from typing import Any

import pytest
import typer

from cctkit.cli.options import with_settings
from cctkit.config.fields import base_type, flag_name
from cctkit.config.settings import TrainConfig, check_settings, settings
from cctkit.config.toml import read_toml
from cctkit.errors import UserError

SETTINGS = {item.name: (item, hint) for item, hint in settings()}
NUMBERS = [name for name, (_, hint) in SETTINGS.items() if base_type(hint) in (int, float)]


def is_optional(name: str) -> bool:
    return type(None) in typing.get_args(SETTINGS[name][1])


def choices(name: str) -> list[str]:
    """The permitted texts of a `Literal`, read off its annotation's text."""
    hint = SETTINGS[name][1]
    parts = [hint, *typing.get_args(hint)]
    return [text for part in parts if typing.get_origin(part) is typing.Literal for text in typing.get_args(part)]


FLOATS = [name for name in NUMBERS if base_type(SETTINGS[name][1]) is float]
UPPER = {"at most", "below"}
CHOICES = [name for name in SETTINGS if choices(name)]


def refused(**values: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        TrainConfig.from_flat(values)
    return caught.value


# --- defaults


def test_the_defaults_are_the_documented_ones() -> None:
    flat = TrainConfig().flat()
    assert {
        key: flat[key] for key in ("model", "epochs", "batch_size", "lr", "optimizer", "weight_decay", "seed", "device")
    } == {
        "model": "cct_2_3x2",
        "epochs": 200,
        "batch_size": 128,
        "lr": 5e-4,
        "optimizer": "adamw",
        "weight_decay": 0.03,
        "seed": 0,
        "device": "auto",
    }
    assert {key: flat[key] for key in ("dropout", "attention_dropout", "drop_path", "warmup_fraction", "val_fraction")} == {
        "dropout": 0.0,
        "attention_dropout": 0.1,
        "drop_path": 0.1,
        "warmup_fraction": 0.1,
        "val_fraction": 0.0,
    }


def test_the_help_the_flags_and_the_checks_know_the_same_settings() -> None:
    assert SETTINGS
    assert SETTINGS.keys() == TrainConfig().flat().keys()


def test_no_flag_is_spelled_twice() -> None:
    spellings = [flag for name, (item, _) in SETTINGS.items() for flag in (flag_name(name), *item.metadata["flags"])]
    negations = [
        f"--no-{name.replace('_', '-')}"
        for name, (item, hint) in SETTINGS.items()
        if item.metadata["off"] or base_type(hint) is bool
    ]
    assert len({*spellings, *negations}) == len(spellings) + len(negations)


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("model", ["--model", "-m"]),
        ("data_dir", ["--data-dir", "--data-path"]),
        ("batch_size", ["--batch-size", "-b"]),
        ("weight_decay", ["--weight-decay", "--wd"]),
        ("label_smoothing", ["--label-smoothing", "--smoothing"]),
        ("auto_augment", ["--auto-augment", "--aa"]),
        ("random_erase", ["--random-erase", "--reprob"]),
        ("workers", ["--workers", "-j"]),
        *(
            (name, [flag])
            for name, flag in [("dataset", "--dataset"), ("epochs", "--epochs"), ("lr", "--lr"), ("mixup", "--mixup")]
        ),
        *(
            (name, [flag])
            for name, flag in [("cutmix", "--cutmix"), ("clip_grad", "--clip-grad"), ("drop_path", "--drop-path")]
        ),
        *(
            (name, [flag])
            for name, flag in [("dropout", "--dropout"), ("ema", "--ema"), ("device", "--device"), ("seed", "--seed")]
        ),
    ],
)
def test_flags_of_other_scripts_are_accepted(name: str, spellings: list[str]) -> None:
    assert set(spellings) <= {flag_name(name), *SETTINGS[name][0].metadata["flags"]}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_has_help_and_a_panel(name: str) -> None:
    metadata = SETTINGS[name][0].metadata
    assert metadata["help"]
    assert metadata["panel"]


def test_a_dozen_options_at_most_are_on_the_first_panel() -> None:
    assert sum(item.metadata["panel"] == "Main options" for item, _ in SETTINGS.values()) <= 12


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().model.dropout = 0.5  # type: ignore[misc]


# --- ranges


def beside(value: float, kind: type, *, up: bool) -> Any:
    """The next value above or below."""
    if kind is int:
        return int(value) + (1 if up else -1)
    return math.nextafter(value, math.inf if up else -math.inf)


BOUNDS = [(name, words, bound) for name in NUMBERS for words, bound in SETTINGS[name][0].metadata["bounds"].items()]


@pytest.mark.parametrize(("name", "words", "bound"), BOUNDS)
def test_a_number_out_of_range_is_refused_by_flag(name: str, words: str, bound: float) -> None:
    kind = base_type(SETTINGS[name][1])
    outside = {
        "at least": beside(bound, kind, up=False),
        "above": kind(bound),
        "at most": beside(bound, kind, up=True),
        "below": kind(bound),
    }[words]
    error = refused(**{name: outside})
    assert error.what == f"{name} is {outside}, expected {words} {bound}"
    assert error.where == flag_name(name)


@pytest.mark.parametrize(
    ("name", "bound"), [(name, bound) for name, words, bound in BOUNDS if words in ("at least", "at most")]
)
def test_a_number_on_an_inclusive_bound_is_taken(name: str, bound: float) -> None:
    kind = base_type(SETTINGS[name][1])
    assert TrainConfig.from_flat({name: kind(bound)}).flat()[name] == bound


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_lower_bound(name: str) -> None:
    assert SETTINGS[name][0].metadata["bounds"].keys() & {"at least", "above"}


@pytest.mark.parametrize("name", FLOATS)
def test_nan_is_out_of_every_range(name: str) -> None:
    assert refused(**{name: math.nan}).what.startswith(f"{name} is nan, expected ")
    assert refused(**{name: -math.inf}).what.startswith(f"{name} is -inf, expected ")


@pytest.mark.parametrize("name", FLOATS)
def test_infinity_is_refused(name: str) -> None:
    assert refused(**{name: math.inf}).what == f"{name} is inf, expected a finite number"


@pytest.mark.parametrize("name", [name for name in NUMBERS if not UPPER & SETTINGS[name][0].metadata["bounds"].keys()])
def test_a_number_that_overflows_later_is_refused(name: str) -> None:
    for value in (2**63, 10**400):  # what a seed of torch, and what a float cannot hold
        assert refused(**{name: value}).what == f"{name} is too large, expected at most 9223372036854775807"


def test_a_number_far_below_zero_is_refused_as_one_below_zero_is() -> None:
    assert refused(lr=-(10**400)).where == refused(lr=-1.0).where == "--lr"


def test_a_string_is_not_a_number() -> None:
    assert refused(epochs="5").what == "epochs is '5', expected int"
    assert refused(epochs=5.5).what == "epochs is 5.5, expected int"
    assert refused(dataset=5).what == "dataset is 5, expected str"
    assert refused(device="\x1b").what == r"device is '\x1b', expected one of: auto, cpu, cuda, mps"


@pytest.mark.parametrize(
    ("values", "what", "where"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1", "--epochs"),
        ({"batch_size": -1}, "batch_size is -1, expected at least 1", "--batch-size"),
        ({"lr": 0.0}, "lr is 0.0, expected above 0", "--lr"),
        ({"dropout": 1.0}, "dropout is 1.0, expected below 1", "--dropout"),
        ({"mix_switch_prob": 1.5}, "mix_switch_prob is 1.5, expected at most 1", "--mix-switch-prob"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd', expected one of: adamw, muon", "--optimizer"),
        (
            {"positional_embedding": "rope"},
            "positional_embedding is 'rope', expected one of: learnable, sine, none",
            "--positional-embedding",
        ),
        ({"epochs": 3.0}, "epochs is ", "--epochs"),
        ({"image_size": "big"}, "the image size is 'big', expected pixels: 32, or HEIGHTxWIDTH: 48x32", "--image-size"),
        ({"accumulate": 129}, "--accumulate 129 is larger than the batch size, 128", "--accumulate"),
        ({"min_lr": 0.01}, "min_lr 0.01 is above lr 0.0005", "--min-lr"),
        ({"shard": True, "optimizer": "muon"}, "Muon cannot be combined with --shard", "--shard"),
        ({"freeze": "backbone"}, "--freeze backbone needs --init", "--freeze"),
        (
            {"freeze": "backbone", "init": "w.pth", "layer_decay": 0.9},
            "--layer-decay has no effect with --freeze backbone",
            "--layer-decay",
        ),
        ({"stream": True, "skip_bad": True}, "--skip-bad cannot be combined with --stream", "--skip-bad"),
        ({"layer_decay": 0}, "layer_decay is 0.0, expected above 0", "--layer-decay"),
        ({"layer_decay": 1.1}, "layer_decay is 1.1, expected at most 1", "--layer-decay"),
    ],
)
def test_a_message_says_what_was_expected_and_got(values: dict[str, Any], what: str, where: str) -> None:
    error = refused(**values)
    assert error.what.startswith(what)
    assert error.where == where
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 9, "warmup_epochs": 9.5}, "a warm-up of 9.5 and a cool-down of 0 epochs do not fit into 9"),
        ({"epochs": 10, "cooldown_epochs": 9.5}, "a warm-up of 1 and a cool-down of 9.5 epochs do not fit into 10"),
        ({"epochs": 10, "warmup_epochs": 6, "cooldown_epochs": 5}, "a warm-up of 6 and a cool-down of 5 epochs"),
    ],
)
def test_a_warmup_and_a_cooldown_longer_than_the_run_are_refused(values: dict[str, float], words: str) -> None:
    error = refused(**values)
    assert error.what.startswith(words)
    assert error.where == "--warmup-epochs, --cooldown-epochs"


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 10, "warmup_epochs": 6, "cooldown_epochs": 4},
        {"epochs": 3, "warmup_fraction": 0.675, "cooldown_epochs": 0.975},  # 3 * 0.675 is 2.0250000000000004
        {"epochs": 1, "warmup_fraction": 0.99},
    ],
)
def test_a_warmup_and_a_cooldown_may_fill_the_run(values: dict[str, float]) -> None:
    assert TrainConfig.from_flat(values).flat().items() >= values.items()


# --- types and choices

WRONG: dict[type, list[Any]] = {
    int: [1.0, "1", True, None, [1]],
    float: ["0.5", True, None, [0.5]],
    bool: [1, 0, "true", None],
    str: [1, True, None, ["a"]],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_value_of_another_type_is_refused(name: str) -> None:
    kind = base_type(SETTINGS[name][1])
    for value in WRONG.get(kind, []):
        if value is None and is_optional(name):
            continue
        error = refused(**{name: value})
        assert error.what.endswith(f", expected {kind.__name__}")
        assert error.where == flag_name(name)


@pytest.mark.parametrize("name", SETTINGS)
def test_only_an_optional_setting_may_be_none(name: str) -> None:
    if is_optional(name):
        assert TrainConfig.from_flat({name: None}).flat()[name] is None
    elif base_type(SETTINGS[name][1]) is not tuple:
        refused(**{name: None})


@pytest.mark.parametrize("name", FLOATS)
def test_a_whole_number_is_taken_for_a_float(name: str) -> None:
    if not SETTINGS[name][0].metadata["bounds"].keys() & UPPER:
        config = TrainConfig.from_flat({"lr": 5, name: 5})
        assert type(config.flat()[name]) is float
        assert config.flat()[name] == 5.0


@pytest.mark.parametrize("name", CHOICES)
def test_each_choice_is_taken_and_any_other_refused_with_the_list(name: str) -> None:
    for choice in choices(name):
        assert TrainConfig.from_flat({"init": "vit_b_16", name: choice}).flat()[name] == choice  # freezing needs weights
    for other in ("", choices(name)[0].upper() + "x", choices(name)[0] + "\x1b[0m"):
        error = refused(**{name: other})
        assert error.what.endswith(f", expected one of: {', '.join(choices(name))}")
        assert error.what.isprintable()
        assert error.where == flag_name(name)


# --- other spellings


def test_fp32_is_stored_as_float32(tmp_path: Path) -> None:
    assert TrainConfig(precision="fp32").precision == "float32"  # type: ignore[arg-type]
    assert check_settings({"precision": "fp32"}) == {"precision": "float32"}
    (tmp_path / "c.toml").write_text('precision = "fp32"\n')
    assert TrainConfig.from_flat(read_toml(tmp_path / "c.toml")).flat()["precision"] == "float32"


@pytest.mark.parametrize("spelling", ["--accumulate", "--grad-accum-steps"])
def test_gradient_accumulation_has_two_flags_and_one_setting(spelling: str) -> None:
    given: list[Any] = []
    app = typer.Typer()
    app.command()(with_settings(lambda flags: given.append(flags)))
    app([spelling, "2", "--precision", "fp32"], standalone_mode=False)
    assert given == [{"accumulate": 2, "precision": "fp32"}]


def test_the_last_fraction_of_the_epochs_is_without_mixing() -> None:
    config = TrainConfig.from_flat({"epochs": 30, "mixup": 0.2, "cutmix": 1.0, "mix_prob": 0.5, "unmixed_fraction": 0.1})
    mixes = [config.augment_in(epoch) == config.augment for epoch in range(30)]
    assert mixes == [True] * 27 + [False] * 3
    assert config.augment_in(29) == TrainConfig().augment
