"""SIGKILL before each file operation of a writer, and in the midst of each write: what goes on ends as the unbroken work."""

import json
import random
import signal
from pathlib import Path

from tests.robustness.outcome import differences, leftovers
from tests.robustness.recovery import in_place, quietly
from tests.robustness.tally import Tally
from tests.robustness.work import Place, Work

_HALF = 0.5
WITHIN = 60
"""Kills within the runs of several seeds, by chance: what a run does is tried on a run."""


def kills_at_each(name: str, work: Work, seed: int, count: int, folder: Path) -> Tally:
    """`count` of the kills, by chance; 0: all, of several seeds `WITHIN` within the runs and all outside of them."""
    tally = Tally(promise=1, name=f"kill at every operation: {name}", seed=seed)
    place, report = Place(folder, work), folder / "report.json"
    place.finish("unbroken")
    place.finish("again", spec=place.spec(report=str(report)))  # with the images packed, as all that follow
    expected = place.outcome("unbroken")
    operations: list[tuple[str, str]] = json.loads(report.read_text())["operations"]
    for number, torn in _moments(operations, work, seed, count):
        output = f"run {number} {torn}"
        process = place.start(output, spec=place.spec(operation=number, torn=torn))
        process.communicate()
        wrong = [] if process.returncode == -signal.SIGKILL else [f"exit code {process.returncode}, expected a kill"]
        wrong += _gone_on(place, output) or differences(place.outcome(output), expected)
        wrong += [f"left behind: {each}" for each in leftovers(folder) if output in each]
        kind, path = operations[number - 1]
        tally.add(seed, [f"{each} (before {number}, {kind} {path}{', torn' if torn else ''})" for each in wrong])
        place.remove(output)
    tally.note = f"of {len(operations)} file operations, {sum(kind == 'write' for kind, _ in operations)} of them writes"
    return tally


def _moments(operations: list[tuple[str, str]], work: Work, seed: int, count: int) -> list[tuple[int, float]]:
    """The number of an operation, and the fraction of a write that is carried out before the kill."""
    every = [
        (number, torn)
        for number, (kind, _) in enumerate(operations, start=1)
        for torn in ((0.0, _HALF) if kind == "write" else (0.0,))
    ]
    draws = random.Random(seed)
    if count:
        return draws.sample(every, min(count, len(every)))
    within = [each for each in every if work.kind == "seeds" and "/seed-" in operations[each[0] - 1][1]]
    left_out = set(within) - set(draws.sample(within, min(WITHIN, len(within))))
    return [each for each in every if each not in left_out]


def _gone_on(place: Place, output: str) -> list[str]:
    """What is said if the command that goes on fails; a file that is whole is not made again, as it would be refused."""
    if place.work.kind not in ("train", "seeds") and place.is_done(output):
        return []
    with in_place(place):
        code, errors = quietly(place.again(output))
    return [f"then exit code {code}: {errors[-1000:]}"] if code else []
