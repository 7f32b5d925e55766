"""The rows of `make fuzz` that go over lists: spoilt files through the command, archives, bombs, exploits, names, network."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cctkit.cli import app
from tests.robustness import archives, spoilt
from tests.robustness.commands import Ran, make_play, run_command, small_graph
from tests.robustness.names import NAMES
from tests.robustness.originals import Originals

Found = Iterator[tuple[str, list[str]]]
"""What was tried, and what was wrong."""


def _place(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder)) / "here"


def _spoilt(originals: Originals, folder: Path) -> Found:
    for name, kind in spoilt.CASES:
        yield f"{name}, {kind}", list(spoilt.faults_of(name, kind, originals, _place(folder)))


def _archives(originals: Originals, folder: Path) -> Found:
    for name in archives.HOSTILE:
        yield name, list(archives.faults_of_hostile(name, _place(folder)))


def _bombs(originals: Originals, folder: Path) -> Found:
    for name in archives.BOMBS:
        yield name, list(archives.faults_of_bomb(name, _place(folder)))


def _exploits(originals: Originals, folder: Path) -> Found:
    for name, fault in archives.exploits_run(folder):
        yield name, [fault] if fault else []


def _lines(folder: Path) -> Iterator[Ran]:
    """Every line of every command, to a pipe and to a terminal."""
    play = make_play(folder)
    with small_graph(play), tempfile.TemporaryDirectory() as elsewhere:
        for name in app._COMMANDS:
            for on_terminal in (False, True):
                yield from run_command(name, play, _place(Path(elsewhere)), on_terminal=on_terminal)


def _names(originals: Originals, folder: Path) -> Found:
    for ran in _lines(folder):
        yield ascii(ran.words), ran.faults


def _network(originals: Originals, folder: Path) -> Found:
    for ran in _lines(folder):
        yield ascii(ran.words), ran.connections


REST: Mapping[str, tuple[int, str, Callable[[Originals, Path], Found]]] = {
    "spoilt files through the command": (6, "exit 2, the file named, nothing else written", _spoilt),
    "hostile .pth files": (9, "only tensors and plain values are unpickled", _exploits),
    "hostile archives": (10, "members are compared by name, and read in memory", _archives),
    "bombs through the command": (10, "exit 2 under 1 GiB: sizes are checked first", _bombs),
    f"command lines, each on {len(NAMES)} names": (11, "escaped where they are printed", _names),
    "command lines without a network": (12, "0 connections", _network),
}
"""Row of the table: promise, what guards it, what is tried."""
