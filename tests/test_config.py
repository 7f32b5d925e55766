"""A configuration is checked when it is made, and survives JSON and TOML."""

import json
import math
from pathlib import Path

import pytest

from cctkit.config import TrainConfig, parse_size, read_toml, settings, to_toml
from cctkit.errors import UserError

CHANGED = {"model": "cct_6_3x1", "epochs": 3, "image_size": [48, 32], "lr": 1e-3, "flip": False, "ema": 0.99, "dataset": "a b"}


def test_a_configuration_survives_json_and_toml(tmp_path: Path) -> None:
    config = TrainConfig.from_flat(CHANGED)
    assert TrainConfig.from_flat(json.loads(json.dumps(config.flat()))) == config
    (tmp_path / "c.toml").write_text(to_toml(config.flat()))
    assert TrainConfig.from_flat(read_toml(tmp_path / "c.toml")) == config


def test_tables_of_a_toml_file_only_group(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('epochs = 3\n[data]\nimage_size = "48x32"\n[optimizer]\nlr = 1\n')
    config = TrainConfig.from_flat(read_toml(tmp_path / "c.toml"))
    assert (config.epochs, config.data.image_size, config.lr) == (3, (48, 32), 1.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1; --epochs"),
        ({"epochs": 1.5}, "expected int"),
        ({"epochs": True}, "expected int"),
        ({"lr": 0}, "expected above 0"),
        ({"lr": math.nan}, "expected above 0"),
        ({"lr": "fast"}, "expected float"),
        ({"crop": "big"}, "expected one of: pad, resized, none"),
        ({"dropout": 1}, "below 1"),
        ({"image_size": "1x2x3"}, "expected pixels"),
        ({"image_size": "0"}, "expected pixels"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"accumulate": 200}, "cannot be computed in 200 parts"),
        ({"min_lr": 1.0}, "above lr"),
        ({"model": 3}, "expected str"),
        ({"dataset": "\x1b", "lr": "\x1b"}, r"\\x1b"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TrainConfig.from_flat(values)


@pytest.mark.parametrize(("text", "size"), [("32", (32, 32)), ("48x32", (48, 32)), ([8, 9], (8, 9)), (64, (64, 64))])
def test_a_size_is_a_side_or_height_by_width(text: object, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


def test_a_file_that_is_no_toml_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("= nonsense")
    for path in (tmp_path / "c.toml", tmp_path / "missing.toml"):
        with pytest.raises(UserError):
            read_toml(path)


def test_every_setting_has_help_a_panel_and_a_name_of_its_own() -> None:
    names = [item.name for item, _ in settings()]
    assert len(names) == len(set(names)) == len(TrainConfig().flat())
    assert all(item.metadata["help"] and item.metadata["panel"] for item, _ in settings())
