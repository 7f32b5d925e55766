"""What is read of a run's files: all of it as written, or an error that names the file and its fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cctkit.config.settings import TrainConfig
from cctkit.errors import UserError
from cctkit.runs.runfiles import NUMBER, fault, read_metrics, read_object, read_settings
from tests.mutants import MANY, mutated_json, refused_or_read

CONFIG: dict[str, Any] = {"values": TrainConfig().flat(), "origins": {}, "recipe": "fast"}
EPOCHS: list[dict[str, Any]] = [
    {"epoch": 1, "step": 2, "train_loss": 1.5, "test_loss": None, "test_top1_percent": 12.5},
    {"epoch": 2, "step": 4, "train_loss": 1.25, "test_loss": 1.0, "test_top1_percent": 50.0},
]


@pytest.mark.parametrize(
    ("value", "shape", "problem"),
    [
        ({"a": 1, "b": "more"}, {"a": int}, None),
        ({"a": True}, {"a": int}, "a is True"),
        ({}, {"b": int, "a": str}, "it lacks a, b"),
        ([], {"a": int}, "it is not a JSON object"),
        ({"a": {"b": None}}, {"a": {"b": (str, None)}}, None),
        ({"a": {"b": 1}}, {"a": {"b": (str, None)}}, "b is 1"),
        ({"a": "cpu"}, {"a": ("cpu", "cuda")}, None),
        ({"a": "tpu"}, {"a": ("cpu", "cuda")}, "a is 'tpu'"),
        ({"a": [1, 2.5]}, {"a": [NUMBER, NUMBER]}, None),
        ({"a": [1]}, {"a": [NUMBER, NUMBER]}, "a is [1]"),
        ({"a": [1, "x"]}, {"a": [NUMBER, NUMBER]}, "a is [1, 'x']"),
        ({"a": "\x1b"}, {"a": int}, r"a is '\x1b'"),
    ],
)
def test_a_fault_is_named(value: Any, shape: Any, problem: str | None) -> None:
    assert fault(value, shape) == problem


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"values"',
    "another encoding": json.dumps(CONFIG).encode("utf-16")[:-1],
    "no text": b"\xff\xfe\xfd",
    "no object": b"[1]",
    "nested without end": b'{"values":' + b"[" * 100_000,
    "a number without end": b'{"values": ' + b"1" * 10_000 + b"}",
    "values that are none": b'{"values": [], "recipe": null}',
    "no recipe": b'{"values": {}}',
    "a recipe that is a number": b'{"values": {}, "recipe": 3}',
    "an unknown setting": b'{"values": {"epoch": 3}, "recipe": null}',
    "a setting out of range": b'{"values": {"lr": NaN}, "recipe": null}',
    "a setting that is no file name": b'{"values": {"dataset": "a\\u0000"}, "recipe": null}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_settings_that_are_none_are_refused_by_the_files_name(tmp_path: Path, case: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(BROKEN[case])
    with pytest.raises(UserError) as caught:
        read_settings(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("read", [read_object, read_settings, read_metrics])
def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(UserError, match="Is a directory") as caught:
        read(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_a_file_too_large_to_be_a_runs_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="too large"):
        read_settings(path)


def test_settings_come_back(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    assert read_settings(path) == (TrainConfig(), "fast")


def test_metrics_are_read_without_an_incomplete_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    lines = "".join(json.dumps(epoch) + "\n" for epoch in EPOCHS)
    for torn in (b"", b'{"epoch": 3, "tr', b"\xff", b"[" * 100_000):
        path.write_bytes(lines.encode() + torn)
        assert read_metrics(path) == EPOCHS


@pytest.mark.parametrize(
    ("kept", "words"), [((2, 3), "line 1 .* its epoch is 2, expected 1"), ((1, 3), "line 2 .* its epoch is 3")]
)
def test_metrics_of_which_lines_are_missing_are_refused(tmp_path: Path, kept: tuple[int, ...], words: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(EPOCHS[0] | {"epoch": epoch}) + "\n" for epoch in kept))
    with pytest.raises(UserError, match=words) as caught:
        read_metrics(path)
    assert caught.value.where == str(path)


@given(data=st.data())
@MANY
def test_mutants_are_refused_or_read(data: st.DataObject, tmp_path: Path) -> None:
    config, metrics = tmp_path / "config.json", tmp_path / "metrics.jsonl"
    config.write_bytes(data.draw(mutated_json(CONFIG)))
    refused_or_read(lambda: read_settings(config))
    metrics.write_bytes(data.draw(mutated_json(EPOCHS[0])) + b"\n" + json.dumps(EPOCHS[1]).encode() + b"\n")
    refused_or_read(lambda: read_metrics(metrics))
