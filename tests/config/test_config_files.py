"""A configuration outside of the code: it comes back whole from JSON and TOML, and a file's faults are named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cctkit.catalog.recipes import resolve
from cctkit.config.fields import base_type
from cctkit.config.model import ModelOptions
from cctkit.config.settings import MIX_SETTINGS, POLICY_SETTINGS, AugmentConfig, DataConfig, TrainConfig, settings
from cctkit.config.size import parse_size
from cctkit.config.toml import read_toml
from cctkit.errors import UserError
from cctkit.runs.runfiles import read_config


def to_toml(values: Mapping[str, Any]) -> str:
    """Flat settings as TOML, without those that are None. TOML's strings are JSON's, except that they escape DEL."""
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None}
    return "".join(f"{key} = {text}\n" for key, text in texts.items()).replace("\x7f", "\\u007f")


SETTINGS = {item.name: (item, hint) for item, hint in settings()}


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("epoch", "did you mean epochs"),
        ("batchsize", "did you mean batch_size"),
        ("label_smooth", "did you mean label_smoothing"),
        ("zzzzzzzz", "cctkit train --help lists all settings"),
    ],
)
def test_an_unknown_setting_names_the_nearest(key: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig.from_flat({"lr": 1e-3, key: 1}, where="my.toml")
    error = caught.value
    assert (error.what, error.where) == (f"unknown setting '{key}'", "my.toml")
    assert str(error.remedy).startswith(remedy)


@pytest.mark.parametrize("group", ["model_options", "data", "augment"])
def test_the_name_of_a_group_is_not_a_setting(group: str) -> None:
    with pytest.raises(UserError, match=f"unknown setting '{group}'"):
        TrainConfig.from_flat({group: {}})


def test_an_unknown_key_is_printable() -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig.from_flat({"\x1b[31m\n": 1})
    assert caught.value.what == r"unknown setting '\x1b[31m\n'"


# --- round trips


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values that the setting takes."""
    item, hint = SETTINGS[name]
    if name == "group_by":
        return st.sampled_from([None, "1", r"plant\d+", "[^-]*"])
    kind, bounds = base_type(hint), item.metadata["bounds"]
    low, high = bounds.get("at least", bounds.get("above")), bounds.get("at most", bounds.get("below"))
    if kind is float:
        return st.floats(low, 1e9 if high is None else high, exclude_min="above" in bounds, exclude_max="below" in bounds)
    if kind is int:
        return st.integers(low, 2**53 if high is None else high)
    if kind is tuple:
        return st.tuples(st.integers(1, 9999), st.integers(1, 9999))
    return st.from_type(hint).filter(lambda value: "\0" not in str(value))  # choices, texts, switches


def without_contradiction(values: dict[str, Any]) -> dict[str, Any]:
    """Values without those of a policy, or of mixing, where there is none, and one correction of the imbalance at most."""
    idle = POLICY_SETTINGS if values.get("auto_augment") == "none" else ()
    idle += () if values.get("class_weights") is None else ("balanced_sampling",)
    idle += () if values.get("mixup") or values.get("cutmix") else MIX_SETTINGS
    return {key: value for key, value in values.items() if key not in idle}


# Their ranges depend on other settings.
BOUNDED = {"min_lr", "accumulate", "warmup_fraction", "warmup_epochs", "cooldown_epochs"}
CONFIGS = (
    st.fixed_dictionaries(
        {}, optional={name: values_of(name) for name in SETTINGS if name not in BOUNDED | {"freeze", "skip_bad", "shard"}}
    )
    .map(without_contradiction)
    .map(TrainConfig.from_flat)
)
FEW = hypothesis_settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(CONFIGS)
@FEW
def test_a_configuration_survives_json(config: TrainConfig) -> None:
    assert TrainConfig.from_flat(json.loads(json.dumps(config.flat(), allow_nan=False))) == config


@given(CONFIGS)
@FEW
def test_a_configuration_survives_toml(tmp_path: Path, config: TrainConfig) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config.flat()), encoding="utf-8")
    assert TrainConfig.from_flat(read_toml(path)) == config


def test_a_configuration_of_one_release_is_read_by_the_next(tmp_path: Path) -> None:
    """A file with some of the settings: the rest are defaults."""
    path = tmp_path / "config.toml"
    path.write_text('lr = 1e-3\n[model]\nmodel = "cct_6_3x1"\ndropout = 0\n[anything]\nimage_size = [48, 32]\nflip = false\n')
    config = TrainConfig.from_flat(read_toml(path))
    assert config == TrainConfig(
        model=ModelOptions(model="cct_6_3x1"), data=DataConfig(image_size=(48, 32)), augment=AugmentConfig(flip=False), lr=1e-3
    )


def test_settings_that_bound_each_other_come_back_too(tmp_path: Path) -> None:
    values = {"epochs": 9, "warmup_epochs": 4.5, "cooldown_epochs": 4.5, "lr": 0.1, "min_lr": 0.1, "batch_size": 4}
    values |= {"accumulate": 4, "warmup_fraction": 0.5}
    config = TrainConfig.from_flat(values | {"init": "w.pth", "freeze": "backbone"})
    (tmp_path / "c.toml").write_text(to_toml(config.flat()))
    assert TrainConfig.from_flat(read_toml(tmp_path / "c.toml")) == config


def test_a_size_may_be_written_in_each_of_three_ways(tmp_path: Path) -> None:
    sizes = []
    for text in ("32", '"48x32"', "[48, 32]"):
        (tmp_path / "c.toml").write_text(f"image_size = {text}\n")
        sizes.append(TrainConfig.from_flat(read_toml(tmp_path / "c.toml")).data.image_size)
    assert sizes == [(32, 32), (48, 32), (48, 32)]


def test_replace_changes_what_is_named_and_nothing_else() -> None:
    before = TrainConfig.from_flat({"lr": 1e-3, "image_size": "48x32", "mixup": 0.8})
    after = before.replace(epochs=3, image_size=(16, 16))
    assert after.flat() == before.flat() | {"epochs": 3, "image_size": [16, 16]}
    assert before.epochs == 200
    with pytest.raises(UserError, match="unknown setting 'epoch'"):
        before.replace(epoch=3)


# --- the file


@pytest.mark.parametrize("text", ["lr = ", "= 3", "lr = 1\nlr = 2", "[a", "\x00", "lr: 3"])
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="the config file is not valid TOML") as caught:
        read_toml(path)
    assert caught.value.where == str(path)
    assert str(caught.value).isprintable()


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="the config file is not valid TOML"):
        read_toml(path)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot read the config file"):
        read_toml(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "lr = 2020-01-01",
        "lr = [1.0]",
        "epochs = 12:30:00",
        "[[lr]]\nx = 1",
        "[a.lr]\nx = 1",
        "dataset = 3",
        "lr = {lr = {lr = 1}}",
    ],
)
def test_a_value_of_a_kind_that_no_setting_has_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError):
        TrainConfig.from_flat(read_toml(tmp_path / "c.toml"))


@pytest.mark.parametrize("text", ["lr = 1.0\n[a]\nlr = 2.0", "[a]\nlr = 1.0\n[b]\nlr = 2.0"])
def test_a_setting_in_two_tables_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match="the setting 'lr' is given twice"):
        read_toml(tmp_path / "c.toml")


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("a = " + "[" * 50_000)
    with pytest.raises(UserError, match="the config file is not valid TOML"):
        read_toml(tmp_path / "c.toml")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbflr = 0.1\n")
    assert read_toml(tmp_path / "c.toml") == {"lr": 0.1}


@pytest.mark.parametrize("values", [{"epochs": 0}, {"lr": "x"}, {"device": "tpu"}, {"image_size": "x"}, {"accumulate": 999}])
def test_a_wrong_value_of_a_file_names_the_file(values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        TrainConfig.from_flat(values, where="my\x1b.toml")
    assert caught.value.where == r"my\x1b.toml"


# --- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32", (32, 32)),
        (32, (32, 32)),
        ("48x32", (48, 32)),
        ("48X32", (48, 32)),
        ([48, 32], (48, 32)),
        ((8, 9), (8, 9)),
        ([16], (16, 16)),
    ],
)
def test_a_size_is_height_first(text: object, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "32x",
        "x32",
        "1x2x3",
        "0",
        "-32",
        "32x0",
        "3.5",
        "1e3",
        3.5,
        True,
        None,
        [],
        [1, 2, 3],
        ["a"],
        [None],
        {},
        "\x1b[31m",
    ],
)
def test_an_invalid_image_size_is_refused(text: object) -> None:
    with pytest.raises(UserError, match="expected pixels: 32, or HEIGHTxWIDTH: 48x32") as caught:
        parse_size(text)
    assert caught.value.where == "--image-size"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", [[32.7, 48], [True, 48], "3_2", "٣٢", 10**9])
def test_a_size_is_never_rounded_or_beyond_reason(text: object) -> None:
    with pytest.raises(UserError, match="expected pixels: 32, or HEIGHTxWIDTH: 48x32"):
        parse_size(text)


# --- what --config takes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with settings of its own."""
    config = TrainConfig.from_flat({"lr": 0.25, "epochs": 3, "image_size": [8, 16], "warmup_epochs": 1.0, "clip_grad": None})
    (tmp_path / "run").mkdir()
    content = {"values": config.flat(), "origins": {}, "recipe": "fast"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    return tmp_path / "run"


@pytest.mark.parametrize("recipe", [None, "fast"])
@pytest.mark.parametrize("name", ["", "config.json"])
def test_the_settings_of_a_run_are_a_configuration(run: Path, name: str, recipe: str | None) -> None:
    values, found = read_config(run / name, recipe=recipe)
    assert found == "fast"
    again = resolve(recipe_name=found, file_values=values, file_name="config.json", flags={"epochs": 4}).config
    assert again == TrainConfig.from_flat({"lr": 0.25, "epochs": 4, "image_size": [8, 16], "warmup_epochs": 1.0})


def test_a_recipe_beside_the_settings_of_a_run_is_refused_as_it_would_change_nothing(run: Path) -> None:
    with pytest.raises(UserError, match="--recipe report has no effect") as caught:
        read_config(run, recipe="report")
    assert caught.value.where == str(run / "config.json")


def test_a_recipe_beside_a_toml_file_goes_before_the_files(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('recipe = "report"\nlr = 0.5\n')
    assert read_config(tmp_path / "c.toml", recipe=None) == ({"lr": 0.5}, "report")
    assert read_config(tmp_path / "c.toml", recipe="fast") == ({"lr": 0.5}, "fast")
    assert read_config(None, recipe="fast") == ({}, "fast")


@pytest.mark.parametrize("content", ["{}", "[1]", "lr = 1", '{"values": 3, "recipe": null}'])
def test_json_that_is_no_runs_settings_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"result\.json is malformed") as caught:
        read_config(path, recipe=None)
    assert caught.value.where == str(path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read config\.json"):
        read_config(tmp_path, recipe=None)
