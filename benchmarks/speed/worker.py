"""What the measuring processes run. A process measures one kind: `plain`, `ours` or the `floor`."""

import gc
from typing import Any

from cctkit.bench.task import Task
from cctkit.engine.allocator import keep_memory

_measured: Any = None


def start(task: Task) -> dict[str, Any]:
    """Choose our device policy; return it with the versions and the hardware."""
    keep_memory()  # before torch is imported
    from cctkit.bench.training import policy_of
    from cctkit.engine.environment import environment

    facts = environment(policy_of(task))
    return {name: facts[name] for name in ("policy", "cctkit", "torch", "cpu", "gpu")}


def load(kind: str, task: Task) -> int | None:
    """Build what `ask` measures; return its peak memory in bytes, None for the floor."""
    global _measured
    _measured = None
    gc.collect()
    _measured = _made(kind, task)
    return getattr(_measured, "peak_bytes", None)


def ask(method: str, *arguments: Any) -> Any:
    """The result of a method of the `TimedSide` or `Floor` that `load` built."""
    return getattr(_measured, method)(*arguments)


def _made(kind: str, task: Task) -> Any:
    if kind != "plain":  # which runs with the allocator's defaults
        keep_memory()
    import torch

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    if kind == "floor":
        from benchmarks.speed.floor import Floor, record

        return Floor(record(task), task.device)
    from benchmarks.speed.plain import PlainSide
    from cctkit.bench.measure import TimedSide
    from cctkit.bench.training import TaskTraining

    make = {"plain": PlainSide, "ours": TaskTraining}[kind]
    return TimedSide(lambda: make(task), task)
