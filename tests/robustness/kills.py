"""SIGKILL at random moments and at file operations: what goes on afterwards ends as if nothing had happened, to the bit."""

import json
import random
import signal
import time
from pathlib import Path

from tests.processes import Forked
from tests.robustness.child import cpu_s
from tests.robustness.outcome import differences, leftovers
from tests.robustness.tally import Tally
from tests.robustness.work import Place, Work
from tests.training.jobs import ForkedJob

_POLL_S = 0.0005


class Kills:
    """Trials of one work: each is a run that is killed until it is done, and compared with the unbroken one."""

    def __init__(self, name: str, work: Work, folder: Path) -> None:
        self.name, self.work = name, work
        self.place = Place(folder, work)
        report = folder / "report.json"
        self.place.finish("unbroken", spec=self.place.spec(report=str(report)))
        found = json.loads(report.read_text())
        self.operations: int = len(found["operations"])
        self.cpu_s: float = found["cpu_s"]
        self.expected = self.place.outcome("unbroken")

    def generator(self, seed: int) -> random.Random:
        """What a trial draws from."""
        return random.Random(f"{self.name} {seed}")

    def trial(self, seed: int, *, most: int = 1000) -> tuple[int, list[str]]:
        """How many times it was killed, at most `most`, and what is wrong at the end.

        Half of the kills are uniform over the CPU time of the unbroken run, half over its file operations, of which half
        come in the midst of a write.
        """
        generator, output = self.generator(seed), f"run {seed}"
        kills, again, torn = 0, False, generator.random() < 0.5
        while not self.place.is_done(output) and kills < most:
            by_operation = generator.random() < 0.5
            if by_operation and self.work.ranks == 1:
                spec = self.place.spec(
                    operation=generator.randint(1, self.operations), torn=generator.random() if torn else 0.0
                )
                process = self.place.start(output, again=again, spec=spec)
            else:
                process = self.place.start(output, again=again)
                _kill_at(process, generator.uniform(0, 1.1 * self.cpu_s), generator)
            _, errors = process.communicate()
            if process.returncode != 0 and not _is_killed(process):
                return kills, [f"exit code {process.returncode} after {kills} kills: {errors[-2000:]}"]
            kills += process.returncode != 0
            again = True
        try:
            if not self.place.is_done(output) or self.work.kind in ("train", "seeds"):
                self.place.finish(output, again=True)  # a kill may have come between the result and the end
            wrong = differences(self.place.outcome(output), self.expected)
        except (RuntimeError, OSError) as error:
            wrong = [str(error)[-2000:]]
        left = [name for name in leftovers(self.place.folder) if output in name]
        return kills, wrong + [f"left behind: {name}" for name in left]


def _is_killed(process: Forked | ForkedJob) -> bool:
    """Whether one rank was; the others may have ended by themselves, as they lost it."""
    processes = process.ranks if isinstance(process, ForkedJob) else [process]
    return any(each.returncode == -signal.SIGKILL for each in processes)


def _kill_at(process: Forked | ForkedJob, moment_s: float, generator: random.Random) -> None:
    """Kill a process after so much CPU time of its own; of a job one rank, and the others soon after, as torchrun does."""
    processes = list(process.ranks) if isinstance(process, ForkedJob) else [process]
    first = generator.choice(processes)
    while first.returncode is None and cpu_s(first.pid) < moment_s:
        time.sleep(_POLL_S)
    first.kill()
    for other in processes:
        if other is not first:
            time.sleep(generator.choice((0, 0.05)))
            other.kill()


def kills_of(name: str, work: Work, seed: int, count: int, folder: Path) -> Tally:
    """At least `count` kills of one work."""
    tally = Tally(promise=1, name=f"kill: {name}", seed=seed)
    kills = Kills(name, work, folder)
    while tally.tried < count:
        done, faults = kills.trial(seed)
        tally.add(seed, faults, count=done)
        seed += 1
    tally.note = f"{kills.operations} file operations"
    return tally
