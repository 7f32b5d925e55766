"""The benchmark: for each model plain, ours and the floor take turns until the time is used up; medians are reported."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from benchmarks.processes import fresh_process
from benchmarks.speed import worker
from cctkit.bench.task import Task
from cctkit.errors import ResourceError

Notify = Callable[[str], None]

# A row's figures in images per second, in the order of their turns: the process and what it measures.
TURNS = {
    "plain_step": ("plain", "step"),
    "step": ("ours", "step"),
    "plain_epoch": ("plain", "epoch"),
    "epoch": ("ours", "epoch"),
    "plain_inference": ("plain", "inference"),
    "inference": ("ours", "inference"),
}
_FLOOR_RUNS = 24  # of every product, at least
_SETTLE_S = 0.02  # after a turn OpenMP's threads still spin for some milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    warm_s: seconds of training steps before the first turn, see `cctkit.bench.measure.Effort`.
    turn_s: seconds of one turn.
    least_rounds, most_rounds: bounds of the rounds of all turns.
    model_s: seconds that the rounds of one model may take.
    """

    warm_s: float
    turn_s: float
    least_rounds: int
    most_rounds: int
    model_s: float


FULL = Effort(warm_s=5.0, turn_s=2.0, least_rounds=2, most_rounds=7, model_s=50.0)
QUICK = Effort(warm_s=0.4, turn_s=0.4, least_rounds=1, most_rounds=1, model_s=0.0)


def measure(tasks: Sequence[Task], *, effort: Effort = FULL, notify: Notify = lambda _: None) -> dict[str, Any]:
    """The JSON of `python -m benchmarks.speed --json`, schema version 1.

    tasks: the device of the first is used for all; notify: called with a line of text after each round.

    Raises: UserError for an unknown model, before anything is started; ResourceError if a process is killed.
    """
    for task in tasks:
        task.architecture()
    with ExitStack() as stack:
        processes = _Processes({kind: stack.enter_context(fresh_process()) for kind in ("ours", "plain", "floor")})
        facts = processes.call("ours", worker.start, tasks[0])
        device = facts["policy"]["device"]
        rows = []
        for number, task in enumerate(tasks):
            here = f"{task.model} ({number + 1}/{len(tasks)})"
            rows.append(_row(processes, replace(task, device=device), effort, _prefixed(notify, here)))
    return {
        "schema_version": 1,
        "device": device,
        "precision": facts["policy"]["precision"],
        **facts,
        "rows": rows,
    }


def _prefixed(notify: Notify, here: str) -> Notify:
    return lambda text: notify(f"{here} {text}")


@dataclass(frozen=True, slots=True)
class _Processes:
    by_kind: Mapping[str, ProcessPoolExecutor]

    def call(self, kind: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function of `worker` in the process of this kind, or the exception it raised there.

        Raises: ResourceError if the process was killed.
        """
        try:
            return self.by_kind[kind].submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise ResourceError(
                f"the {kind} process was killed, probably because memory ran out", "bench", "a smaller --batch-size"
            ) from error


def _row(processes: _Processes, task: Task, effort: Effort, notify: Notify) -> dict[str, Any]:
    """All figures of one model."""
    notify("warming up")
    peaks = {kind: processes.call(kind, worker.load, kind, task) for kind in processes.by_kind}
    for kind in ("plain", "ours"):
        processes.call(kind, worker.ask, "images_per_s", "step", effort.warm_s)
    speeds: dict[str, list[float]] = {name: [] for name in TURNS}
    floor: dict[str, float] = {}
    start = time.monotonic()
    for done in range(1, effort.most_rounds + 1):
        for name, (kind, what) in TURNS.items():
            time.sleep(_SETTLE_S)
            speeds[name].append(processes.call(kind, worker.ask, "images_per_s", what, effort.turn_s))
        time.sleep(_SETTLE_S)
        floor = processes.call("floor", worker.ask, "measure", -(-_FLOOR_RUNS // effort.least_rounds))
        plain, ours, best = speeds["plain_step"][-1], speeds["step"][-1], task.batch_size / floor["step"]
        notify(f"round {done}: a step of plain {plain:,.0f}, ours {ours:,.0f}, the floor {best:,.0f} images/s")
        spent = time.monotonic() - start
        if done >= effort.least_rounds and spent * (done + 1) / done > effort.model_s:
            break
    return {
        "model": task.model,
        "batch_size": task.batch_size,
        **{name: median(values) for name, values in speeds.items()},
        "floor": task.batch_size / floor["step"],
        "inference_floor": task.batch_size / floor["inference"],
        "plain_peak_bytes": peaks["plain"],
        "peak_bytes": peaks["ours"],
        "rounds": done,
    }
