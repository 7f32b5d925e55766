"""Power cuts of a run and of a packing: from each state that one may leave, work goes on and nothing is lost."""

import contextlib
import io
import os
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cctkit.cli.app import run as command
from cctkit.data.packed.decode import ROW
from cctkit.data.packed.journal import PartialFile
from cctkit.engine.environment import read_environment
from cctkit.errors import UserError
from cctkit.models.weights import read_weights
from cctkit.runs.paths import RunPaths
from cctkit.runs.predictions import read_predictions
from cctkit.runs.rundir import RunDir
from cctkit.runs.runfiles import read_metrics, read_settings
from cctkit.training import loop
from cctkit.training.checkpoint import load_checkpoint
from tests.robustness.child import prepare
from tests.robustness.operations import Operations
from tests.robustness.outcome import differences
from tests.robustness.powercut import Disk, State, write_state
from tests.robustness.tally import Tally
from tests.robustness.work import Place, Work


def quietly(arguments: list[str]) -> tuple[int, str]:
    """The exit code of `cctkit` in this process, and what it has printed on stderr."""
    code, _, errors = heard(arguments)
    return code, errors


def heard(arguments: list[str]) -> tuple[int, str, str]:
    """The exit code of `cctkit` in this process, and what it has printed on stdout and stderr; a bug is exit code 1."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = command(arguments)
        except Exception:
            code = 1
            traceback.print_exc()
    return code, out.getvalue(), errors.getvalue()


@contextlib.contextmanager
def in_place(place: Place) -> Iterator[None]:
    """Commands in this process with the cache and the settings of a place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCTKIT_CACHE", str(place.cache))
        prepare(place.work.settings, draws=place.work.draws, broken=place.work.broken, patch=patch.setattr)
        yield


class PowerCuts:
    """One unbroken work whose file operations were recorded, and the states that a power cut may leave of it.

    The output lies two new directories below one that was there: `new/deep/run`.
    """

    def __init__(self, name: str, work: Work, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.place = Place(folder, work)
        self.begin = folder / "place"
        self.begin.mkdir()
        self.output = "place/new/deep/run" if work.kind == "train" else "place/packed"
        with in_place(self.place):
            code, errors = quietly(self.place.command("unbroken"))
            assert code == 0, errors
            self.expected = self.place.outcome("unbroken")
            with Operations(self.begin) as operations:
                code, errors = quietly(self.place.command(self.output))
        assert code == 0, errors
        self.operations = operations.seen

    def states(self, seed: int, owed: Callable[[int], object]) -> Iterator[tuple[int, str, State]]:
        """The different ones: after so many operations, how it came about, the state.

        owed: what must not be lost after so many operations; equal states differ if it does.
        """
        generator, disk, seen = random.Random(f"{self.name} {seed}"), Disk(str(self.begin.resolve())), set[object]()
        for number in range(len(self.operations) + 1):
            if number:
                disk.apply(self.operations[number - 1])
            for how, state in disk.states(generator):
                key = owed(number), frozenset(state.items())
                if key not in seen:
                    seen.add(key)
                    yield number, how, state

    def put(self, state: State) -> None:
        """Let the disk be in this state."""
        shutil.rmtree(self.begin)
        write_state(state, self.begin)

    def goes_on(self) -> list[str]:
        """What is wrong once the work has gone on from what is there to its end."""
        code, errors = 0, ""
        if self.place.work.kind == "train" or not self.place.is_done(self.output):  # a packed file is not overwritten
            with in_place(self.place):
                code, errors = quietly(self.place.again(self.output))
        if code:
            return [f"exit code {code}: {errors}"]
        return differences(self.place.outcome(self.output), self.expected)


@contextlib.contextmanager
def reported() -> Iterator[list[tuple[int, int]]]:
    """The file operations after which a checkpoint was called saved, and its step, as a list that grows."""
    reports: list[tuple[int, int]] = []
    real = loop.save_checkpoint

    def save(*arguments: Any, **named: Any) -> Path:
        path = real(*arguments, **named)
        watching = getattr(os.fsync, "__self__", None)
        if isinstance(watching, Operations):
            reports.append((len(watching.seen), named["step"]))
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save)
        yield reports


def faults_of_run(path: Path, saved: int | None) -> list[str]:
    """What could not be gone on with in a run directory, of which a checkpoint of step `saved` was reported to be saved."""
    run = RunPaths(path)
    try:
        if not run.config.is_file():
            if saved is not None:
                return [f"the checkpoint of step {saved} is lost with the whole run"]
            RunDir.create(path).discard()
            return []
        read_settings(run.config)
        read_environment(run.env)
        found = load_checkpoint(run.checkpoints, warn=lambda _: None)
        if found is None:
            return [] if saved is None else [f"the checkpoint of step {saved} is lost"]
        wrong = [f"step {found.step} is the newest, {saved} was saved"] if found.step < (saved or 0) else []
        if len(read_metrics(run.metrics)) < found.state["epochs_done"]:
            wrong.append("metrics lack an epoch of the checkpoint")
        if run.weights.exists():
            read_weights(run.weights)
        if run.predictions.exists():
            read_predictions(run.predictions)
        if run.result.exists() and not (run.weights.exists() and run.predictions.exists()):
            wrong.append("a result without weights or predictions")
    except UserError as error:
        return [str(error)]
    return wrong


def power_cuts_of_run(work: Work, seed: int, count: int, folder: Path) -> Tally:
    """All states of a run are read; `count` of them, by chance, are resumed to the end and compared."""
    tally = Tally(promise=2, name="power cut: training", seed=seed)
    with reported() as reports:
        cuts = PowerCuts("training", work, folder)

    def owed(number: int) -> int | None:
        return max((step for at, step in reports if at <= number), default=None)

    states = list(cuts.states(seed, owed))
    whole = set(random.Random(seed).sample(range(len(states)), min(count, len(states))))
    for position, (number, how, state) in enumerate(states):
        cuts.put(state)
        wrong = faults_of_run(folder / cuts.output, owed(number))
        if not wrong and position in whole:
            wrong = cuts.goes_on()
        after = f"after {cuts.operations[number - 1]}" if number else "at first"
        tally.add(seed, [f"{fault} ({how}, {after})" for fault in wrong])
    tally.note = f"states after {len(cuts.operations)} file operations; {len(whole)} were resumed to the end"
    return tally


def power_cuts_of_packing(work: Work, seed: int, count: int, folder: Path) -> Tally:
    """The images that were committed are not decoded again; of `count` states, by chance, packing goes on to the same file."""
    tally = Tally(promise=2, name="power cut: packing", seed=seed)
    with committed() as commits:
        cuts = PowerCuts("packing", work, folder)

    def owed(number: int) -> int:
        return max((rows for at, rows in commits if at <= number), default=0)

    states = list(cuts.states(seed, owed))
    whole = set(random.Random(seed).sample(range(len(states)), min(count, len(states))))
    for position, (number, how, state) in enumerate(states):
        cuts.put(state)
        wrong = _lost_rows(cuts, owed(number))
        if not wrong and position in whole:
            wrong = cuts.goes_on()
        after = f"after {cuts.operations[number - 1]}" if number else "at first"
        tally.add(seed, [f"{fault} ({how}, {after})" for fault in wrong])
    tally.note = f"states after {len(cuts.operations)} file operations; {len(whole)} were resumed to the end"
    return tally


@contextlib.contextmanager
def committed() -> Iterator[list[tuple[int, int]]]:
    """The file operations after which so many images were committed, as a list that grows."""
    commits: list[tuple[int, int]] = []
    real: Callable[[PartialFile], None] = PartialFile.commit

    def commit(self: PartialFile) -> None:
        real(self)
        watching = getattr(os.fsync, "__self__", None)
        if isinstance(watching, Operations):
            commits.append((len(watching.seen), len(self.rows())))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialFile, "commit", commit)
        yield commits


def _lost_rows(cuts: PowerCuts, rows: int) -> list[str]:
    """Whether fewer than `rows` images are left, in the file or in its journal."""
    path = Path(f"{cuts.folder / cuts.output}{cuts.place.suffix}")
    journal = path.with_name(path.name + ".part.rows")
    if path.exists() or rows == 0:
        return []
    left = (journal.stat().st_size - 64) // ROW.itemsize if journal.exists() else 0
    return [f"{left} of {rows} images that were committed are left"] if left < rows else []
