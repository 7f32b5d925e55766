"""Two starts of one run at once: one wins, and the other exits 5 and changes nothing."""

import signal
from pathlib import Path

from benchmarks.jobs import until
from tests.processes import Forked
from tests.robustness.outcome import differences
from tests.robustness.tally import Tally
from tests.robustness.work import Place, Work
from tests.training.jobs import ForkedJob

_STEPS = 5  # of an epoch
WITH_WORKERS = Work(words=("--epochs", "1", "--stream", "--workers", "2"))
SHORT = Work(words=("--epochs", "1"))


def races(seed: int, count: int, folder: Path, *, work: Work = SHORT) -> Tally:
    """`count` races of two starts, which begin when both processes are there; the winner trains on when the loser has ended."""
    tally = Tally(promise=5, name="race of two starts", seed=seed)
    place = Place(folder, work)
    place.finish("unbroken")
    expected = place.outcome("unbroken")
    for trial in range(seed, seed + count):
        output = f"run {trial}"
        starts = _raced(place, output)
        codes = sorted(start.returncode or 0 for start in starts)
        wrong = [] if codes == [0, 5] else [f"exit codes {codes}"]
        tally.add(trial, wrong or differences(place.outcome(output), expected))
    return tally


def _raced(place: Place, output: str) -> "list[Forked | ForkedJob]":
    """Two starts at their end."""
    gun, bell = place.folder / f"gun of {output}", place.folder / f"bell of {output}"
    held = {"place": "cctkit.training.loop:train_step", "call": 1, "holds_until": str(bell)}
    starts = [place.start(output, spec=place.spec(waits_for=str(gun), **held)) for _ in range(2)]
    until(lambda: _number_at(gun) == 2)
    gun.touch()
    until(lambda: _number_at(bell) + sum(start.returncode is not None for start in starts) == 2)
    bell.touch()
    for start in starts:
        start.communicate()
    return starts


def _number_at(path: Path) -> int:
    """How many processes wait for this file."""
    return len(list(path.parent.glob(f"{path.name}.*")))


def killed_holders(seed: int, count: int, folder: Path, *, work: Work = WITH_WORKERS) -> Tally:
    """The holder of a run is killed in a step: the next start has the lock at once, though workers of the dead may live on."""
    tally = Tally(promise=5, name="start after the holder was killed", seed=seed)
    place = Place(folder, work)
    place.finish("unbroken")
    expected = place.outcome("unbroken")
    for trial in range(seed, seed + count):
        output = f"run {trial}"
        spec = place.spec(place="cctkit.training.loop:train_step", call=1 + trial % _STEPS, signals=(signal.SIGKILL,))
        process = place.start(output, spec=spec)
        process.communicate()
        wrong = [] if process.returncode == -signal.SIGKILL else [f"exit code {process.returncode}"]
        place.finish(output, again=True)
        tally.add(trial, wrong + differences(place.outcome(output), expected))
    return tally
