"""The benchmark whole: model by model, plain, ours and the floor take turns until there is enough; the medians count."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from benchmarks.speed.process import Worker
from cctkit.bench.task import Task

Notify = Callable[[str], None]

# A row's figures in images a second, in the order of their turns: who is asked, and for what.
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
    """How long is measured: the seconds of a turn, the rounds of all turns, and the seconds that a model's rounds may take.

    warm_s: of steps that do not count, before: a heap that keeps its memory grows for some steps, and drop path makes batches
    of a dozen sizes, each of which oneDNN prepares once.
    """

    warm_s: float
    turn_s: float
    least_rounds: int
    most_rounds: int
    model_s: float


FULL = Effort(warm_s=5.0, turn_s=2.0, least_rounds=2, most_rounds=7, model_s=50.0)
QUICK = Effort(warm_s=0.4, turn_s=0.4, least_rounds=1, most_rounds=1, model_s=0.0)


def measure(tasks: Sequence[Task], *, effort: Effort = FULL, notify: Notify = lambda _: None) -> dict[str, Any]:
    """The contract of `bench --json`, schema version 1; others may be added, these stay. `notify` is told each round.

    The device of the first task is asked for, and where it is `auto` the one that was chosen is used for all.

    Raises: UserError, ResourceError; RuntimeError where a worker failed.
    """
    for task in tasks:
        task.architecture()
    with ExitStack() as stack:
        workers = {"ours": stack.enter_context(Worker("ours"))}
        facts = workers["ours"].ask("start", task=asdict(tasks[0]))  # times this machine: nothing else may run
        workers |= {kind: stack.enter_context(Worker(kind)) for kind in ("plain", "floor")}
        device = facts["policy"]["device"]
        rows = []
        for number, task in enumerate(tasks):
            here = f"{task.model} ({number + 1}/{len(tasks)})"
            rows.append(_row(workers, replace(task, device=device), effort, _prefixed(notify, here)))
    return {
        "schema_version": 1,
        "device": device,
        "precision": facts["policy"]["precision"],
        **facts,
        "rows": rows,
    }


def _prefixed(notify: Notify, here: str) -> Notify:
    return lambda text: notify(f"{here} {text}")


def _row(workers: dict[str, Worker], task: Task, effort: Effort, notify: Notify) -> dict[str, Any]:
    """All figures of one model."""
    notify("warming up")
    peaks = {kind: worker.ask("load", task=asdict(task)) for kind, worker in workers.items()}
    for kind in ("plain", "ours"):
        workers[kind].ask("turn", what="step", aim_s=effort.warm_s)
    speeds: dict[str, list[float]] = {name: [] for name in TURNS}
    floor: dict[str, float] = {}
    start = time.monotonic()
    for done in range(1, effort.most_rounds + 1):
        for name, (kind, what) in TURNS.items():
            time.sleep(_SETTLE_S)
            speeds[name].append(workers[kind].ask("turn", what=what, aim_s=effort.turn_s))
        time.sleep(_SETTLE_S)
        floor = workers["floor"].ask("measure", runs=-(-_FLOOR_RUNS // effort.least_rounds))
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
