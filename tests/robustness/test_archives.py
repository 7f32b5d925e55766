"""Promises 9 and 10: no archive writes elsewhere, no file grows beyond the memory, no weights run code."""

from pathlib import Path

import onnx
import pytest

from cctkit.errors import UserError
from cctkit.models.onnx_file import read_onnx
from tests.robustness.archives import BOMBS, HOSTILE, exploits_run, faults_of_bomb, faults_of_hostile


def test_fifteen_archives_and_ten_bombs_are_tried() -> None:
    assert len(HOSTILE) >= 15
    assert len(BOMBS) >= 10


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_writes_nothing_and_changes_no_result(name: str, tmp_path: Path) -> None:
    assert list(faults_of_hostile(name, tmp_path / "here")) == []


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_an_error_and_takes_less_than_a_gigabyte(name: str, tmp_path: Path, cache: Path) -> None:
    assert list(faults_of_bomb(name, tmp_path / "here")) == []


def test_no_weights_file_runs_code(tmp_path: Path) -> None:
    found = dict(exploits_run(tmp_path))
    assert len(found) == 30
    assert {name: fault for name, fault in found.items() if fault} == {}


def test_an_onnx_file_without_a_graph_is_refused_and_onnxruntime_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])).SerializeToString())
    with pytest.raises(UserError, match="onnxruntime cannot open"):
        read_onnx(tmp_path / "m.onnx")
    assert capfd.readouterr().err == ""
