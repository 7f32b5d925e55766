"""Promises 11 and 12: through every command, hostile names come out as text, and nothing connects to anywhere."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cctkit.cli import app
from tests.robustness.commands import COMMANDS, Play, Ran, make_play, run_command, run_line, small_graph
from tests.robustness.names import FOLDER_NAMES, NAMES


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Iterator[Play]:
    made = make_play(tmp_path_factory.mktemp("play"))
    with small_graph(made):
        yield made


def failures(lines: list[Ran]) -> list[tuple[list[str], list[str]]]:
    return [(ran.words, [*ran.faults, *ran.connections]) for ran in lines if ran.faults or ran.connections]


def test_there_are_at_least_forty_names_and_no_command_is_left_out() -> None:
    assert len(FOLDER_NAMES) >= 40
    assert len(set(NAMES)) == len(NAMES)
    missing = sorted(app._COMMANDS.keys() - COMMANDS.keys())
    assert missing == [], "say in tests/robustness/commands.py how to run them on hostile names"


@pytest.mark.parametrize("name", [name for name in app._COMMANDS if name != "bench"])
def test_a_command_prints_names_as_text_and_does_not_connect(name: str, play: Play, tmp_path: Path) -> None:
    lines = run_command(name, play, tmp_path / "here", on_terminal=False, most=1)
    assert failures(lines) == []
    assert [ran.code for ran in lines] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("on_terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("name", app._COMMANDS)
def test_every_line_of_a_command_does(name: str, on_terminal: bool, play: Play, tmp_path: Path) -> None:
    lines = run_command(name, play, tmp_path / "here", on_terminal=on_terminal)
    assert failures(lines) == []
    assert {ran.code for ran in lines} <= {0, 2}
    assert 0 in {ran.code for ran in lines}


@pytest.mark.slow
def test_torchs_own_exporter_does_not_connect_either(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests put a small graph in its place, which takes milliseconds."""
    from cctkit.export.graph import onnx_graph

    monkeypatch.setattr("cctkit.export.export.onnx_graph", onnx_graph)
    monkeypatch.chdir(tmp_path)
    ran = run_line(["export", "--model", str(play.run), "-o", "\x1b[2J.onnx"], play)
    assert (ran.code, failures([ran])) == (0, [])


def test_names_come_back_from_json_as_they_were(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(run_line(["eval", str(play.run), "--json"], play).out)
    assert {row["class"] for row in found["per_class"]} == set(FOLDER_NAMES)


def test_a_download_that_was_asked_for_is_announced_and_is_the_only_connection(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCTKIT_DATA", str(tmp_path / "data"))
    ran = run_line(["train", "--dataset", "cifar100", "--epochs", "1"], play)
    assert "downloading CIFAR-100" in ran.err
    assert ran.connections
    assert all("cs.toronto.edu" in each for each in ran.connections)
    assert ran.code == 2
    assert run_line(["train", "--dataset", "cifar100", "--epochs", "1", "--no-download"], play).connections == []
