"""One of the processes that take turns: `python -m cctkit.bench.worker plain|ours|floor`.

A line of JSON on stdin asks for a turn, a line on stdout answers it: [what came of it, null], or [null, the user's error].
In between the process waits blocked.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

from cctkit.bench.task import Task
from cctkit.errors import ResourceError, UserError, is_out_of_memory


class Side(Protocol):
    """What can be timed of one way to train and use a model."""

    @property
    def batch(self) -> Any: ...
    def train(self, batch: Any) -> None: ...
    def infer(self, batches: int) -> None: ...
    def batches(self, number: int) -> Any: ...


class SideServer:
    """Answers what is asked of plain and of ours."""

    def __init__(self, make: Callable[[Task], Side]) -> None:
        self._make = make
        self._side: Side | None = None
        self._task: Task | None = None
        self._pace: dict[str, float] = {}  # seconds of a batch, as last seen

    def load(self, task: Task) -> int:
        """Build the model anew and warm it up; the most memory, in bytes, that two of its steps take."""
        from cctkit.bench.clock import peak_bytes, seconds

        self._side = None
        gc.collect()
        self._task = task
        peak = peak_bytes(lambda: self._begin(task), task.device)
        side = self._loaded()
        side.infer(1)
        self._pace["inference"] = seconds(lambda: side.infer(1), task.device)
        for _ in side.batches(1):
            pass
        self._pace["step"] = self._pace["epoch"] = seconds(lambda: side.train(side.batch), task.device)
        return peak

    def _begin(self, task: Task) -> None:
        side = self._side = self._make(task)
        for _ in range(2):
            side.train(side.batch)

    def _loaded(self) -> Side:
        assert self._side is not None
        return self._side

    def turn(self, what: str, aim_s: float) -> float:
        """Images a second over about `aim_s` seconds of `step`, `epoch` or `inference`, at least a batch."""
        from cctkit.bench.clock import seconds

        side, task = self._loaded(), self._task
        assert task is not None
        number = max(1, round(aim_s / self._pace[what]))

        def step() -> None:
            for _ in range(number):
                side.train(side.batch)

        def epoch() -> None:
            for batch in side.batches(number):
                side.train(batch)

        run = {"step": step, "epoch": epoch, "inference": lambda: side.infer(number)}[what]
        took = seconds(run, task.device)
        self._pace[what] = took / number
        return number * task.batch_size / took


Server = dict[str, Callable[..., Any]]


def plain_server() -> Server:
    """The answers of the plain side, with the allocator as it comes."""
    from cctkit.bench.plain import PlainSide

    def make(task: Task) -> Side:
        _set_threads(task)
        return PlainSide(task)

    server = SideServer(make)
    return {"load": server.load, "turn": server.turn}


def our_server() -> Server:
    """The answers of our side; `start` chooses the policy and says where and how is computed."""
    from cctkit.training.allocator import keep_memory

    keep_memory()
    from cctkit.bench.ours import OurSide, policy_of
    from cctkit.training.environment import environment

    def start(task: Task) -> dict[str, Any]:
        facts = environment(policy_of(task))
        return {name: facts[name] for name in ("policy", "cctkit", "torch", "cpu", "gpu")}

    server = SideServer(OurSide)
    return {"start": start, "load": server.load, "turn": server.turn}


def floor_server() -> Server:
    """The answers of the floor: `measure` gives the shortest seconds so far of a step's and an inference's products."""
    from cctkit.training.allocator import keep_memory

    keep_memory()
    from cctkit.bench.floor import Floor, record

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
