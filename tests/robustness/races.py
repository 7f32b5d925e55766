"""Two starts of one run at once: one wins, and the other exits 5 and changes nothing."""

import signal
from pathlib import Path

from tests.robustness.outcome import differences
from tests.robustness.tally import Tally
from tests.robustness.work import Place, Work

_STEPS = 5  # of an epoch
WITH_WORKERS = Work(words=("--epochs", "1", "--stream", "--workers", "2"))
SHORT = Work(words=("--epochs", "1"))


def races(seed: int, count: int, folder: Path, *, work: Work = SHORT) -> Tally:
    """`count` races of two starts, which begin when both processes are there; then the lock of a killed holder is free."""
    tally = Tally(promise=5, name="race of two starts", seed=seed)
    place = Place(folder, work)
    place.finish("unbroken")
    expected = place.outcome("unbroken")
    for trial in range(seed, seed + count):
        output, gun = f"run {trial}", folder / f"gun {trial}"
        starts = [place.start(output, spec=place.spec(waits_for=str(gun))) for _ in range(2)]
        gun.touch()
        for start in starts:
            start.communicate()
        codes = sorted(start.returncode or 0 for start in starts)
        wrong = [] if codes == [0, 5] else [f"exit codes {codes}"]
        tally.add(trial, wrong or differences(place.outcome(output), expected))
    return tally


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
