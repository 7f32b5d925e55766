"""How fast this machine trains and applies models of the catalog, and how much memory a training step takes."""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Protocol

import cctkit
from cctkit.bench.clock import peak_bytes, seconds
from cctkit.bench.task import Task
from cctkit.bench.training import TaskTraining, policy_of
from cctkit.engine.environment import environment

Notify = Callable[[str], None]

KINDS = ("step", "epoch", "inference")
"""What is timed: training steps on one batch, training with its data, forward passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    warm_s: seconds of training steps before the first measurement. A heap that keeps its memory grows during the first steps,
        and drop path makes batches of a dozen sizes, each of which oneDNN prepares once.
    turn_s: seconds of one measurement.
    rounds: measurements of each kind; the medians are reported.
    """

    warm_s: float
    turn_s: float
    rounds: int


FULL = Effort(warm_s=3.0, turn_s=2.0, rounds=3)
QUICK = Effort(warm_s=0.4, turn_s=0.4, rounds=1)


class Side(Protocol):
    """One way to train and apply a model."""

    @property
    def batch(self) -> Any: ...
    def train(self, batch: Any) -> None: ...
    def infer(self, batches: int) -> None: ...
    def batches(self, number: int) -> Iterable[Any]: ...


class TimedSide:
    """A way to train and apply a model, built and warmed up, with its speeds.

    peak_bytes: the most memory that building it and two training steps took.
    """

    def __init__(self, make: Callable[[], Side], task: Task) -> None:
        self.task = task
        self.peak_bytes = peak_bytes(lambda: self._begin(make), task.device)
        self.side.infer(1)
        self._batch_s = {"inference": seconds(lambda: self.side.infer(1), task.device)}
        for _ in self.side.batches(1):
            pass
        self._batch_s["step"] = self._batch_s["epoch"] = seconds(lambda: self.side.train(self.side.batch), task.device)

    def _begin(self, make: Callable[[], Side]) -> None:
        self.side = make()
        for _ in range(2):
            self.side.train(self.side.batch)

    def images_per_s(self, kind: str, aim_s: float) -> float:
        """The speed of one of `KINDS`, measured for about `aim_s` seconds, at least over one batch."""
        side, number = self.side, max(1, round(aim_s / self._batch_s[kind]))

        def step() -> None:
            for _ in range(number):
                side.train(side.batch)

        def epoch() -> None:
            for batch in side.batches(number):
                side.train(batch)

        took = seconds({"step": step, "epoch": epoch, "inference": lambda: side.infer(number)}[kind], self.task.device)
        self._batch_s[kind] = took / number
        return number * self.task.batch_size / took


def measure(
    tasks: Sequence[Task], *, num_images: int, epochs: int, effort: Effort = FULL, notify: Notify = lambda _: None
) -> dict[str, Any]:
    """The contract of `bench --json`, schema version 2.

    tasks: the device of the first is used for all; num_images, epochs: the run whose duration is predicted for each model;
    notify: called with a line of text after each round.

    Raises: UserError, before anything is measured, for an unknown model or a size that it cannot take.
    """
    for task in tasks:
        task.architecture()
    policy = policy_of(tasks[0])
    facts = environment(policy)
    rows = []
    for number, task in enumerate(tasks, start=1):
        rows.append(_row(replace(task, device=policy.device), f"{task.model} ({number}/{len(tasks)})", effort, notify))
    for row in rows:
        row["run_seconds"] = num_images * epochs / row["epoch_images_per_s"]
    return {
        "schema_version": 2,
        "cctkit": cctkit.__version__,
        **{name: facts[name] for name in ("torch", "cpu", "gpu")},
        "policy": asdict(policy),
        "run": {"num_images": num_images, "epochs": epochs},
        "rows": rows,
    }


def _row(task: Task, name: str, effort: Effort, notify: Notify) -> dict[str, Any]:
    """All figures of one model."""
    notify(f"{name} warming up")
    gc.collect()
    timed = TimedSide(lambda: TaskTraining(task), task)
    timed.images_per_s("step", effort.warm_s)
    speeds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for done in range(1, effort.rounds + 1):
        for kind in KINDS:
            speeds[kind].append(timed.images_per_s(kind, effort.turn_s))
        notify(f"{name} round {done} of {effort.rounds}: {speeds['step'][-1]:,.0f} images/s in a training step")
    return {
        "model": task.model,
        "batch_size": task.batch_size,
        **{f"{kind}_images_per_s": median(values) for kind, values in speeds.items()},
        "peak_bytes": timed.peak_bytes,
    }
