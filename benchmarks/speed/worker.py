"""One of the processes that take turns: `python -m benchmarks.speed.worker plain|ours|floor`.

A line of JSON on stdin asks for a turn, a line on stdout answers it: [what came of it, null], or [null, the user's error].
In between the process waits blocked.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from cctkit.bench.task import Task
from cctkit.errors import ResourceError, UserError, is_out_of_memory

Server = dict[str, Callable[..., Any]]


def _timed(make: Callable[[Task], Any]) -> Server:
    """Answers for one way to train: `load` builds the model anew and gives its peak memory, `turn` a speed."""
    from cctkit.bench.measure import TimedSide

    timed: TimedSide | None = None

    def load(task: Task) -> int:
        nonlocal timed
        timed = None
        gc.collect()
        timed = TimedSide(lambda: make(task), task)
        return timed.peak_bytes

    def turn(what: str, aim_s: float) -> float:
        assert timed is not None
        return timed.images_per_s(what, aim_s)

    return {"load": load, "turn": turn}


def plain_server() -> Server:
    """The answers of plain torch, with the allocator as it comes."""
    from benchmarks.speed.plain import PlainSide

    def make(task: Task) -> PlainSide:
        _set_threads(task)
        return PlainSide(task)

    return _timed(make)


def our_server() -> Server:
    """Our answers; `start` chooses the policy and says where and how is computed."""
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.bench.training import TaskTraining, policy_of
    from cctkit.engine.environment import environment

    def start(task: Task) -> dict[str, Any]:
        facts = environment(policy_of(task))
        return {name: facts[name] for name in ("policy", "cctkit", "torch", "cpu", "gpu")}

    return {"start": start, **_timed(TaskTraining)}


def floor_server() -> Server:
    """The answers of the floor: `measure` gives the shortest seconds so far of a step's and an inference's products."""
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from benchmarks.speed.floor import Floor, record

    floor: Floor | None = None

    def load(task: Task) -> None:
        nonlocal floor
        _set_threads(task)
        floor = Floor(record(task), task.device)

    def measure(runs: int) -> dict[str, float]:
        assert floor is not None
        return floor.measure(runs)

    return {"load": load, "measure": measure}


def _set_threads(task: Task) -> None:
    import torch

    if task.threads is not None:
        torch.set_num_threads(task.threads)


def serve(kind: str) -> None:
    """Answer every line of stdin until it ends. What the user cannot have caused ends the process with a traceback."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        server = {"plain": plain_server, "ours": our_server, "floor": floor_server}[kind]()
        for line in sys.stdin:
            what, options = json.loads(line)
            if "task" in options:
                values = options["task"]
                size = values["image_size"]
                options["task"] = Task(**values | {"image_size": size and tuple(size)})
            answers.write(json.dumps(_answer(server[what], options)) + "\n")
            answers.flush()


def _answer(function: Callable[..., Any], options: dict[str, Any]) -> list[Any]:
    try:
        return [function(**options), None]
    except UserError as error:
        return [None, [error.what, error.where, error.remedy, error.exit_code == ResourceError.exit_code]]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return [None, ["memory ran out", None, "a smaller --batch-size", True]]


if __name__ == "__main__":
    serve(sys.argv[1])
