"""Where the time of a training step goes: `python -m benchmarks.operators`.

Profiles the training steps that `python -m benchmarks.speed` times, plain and ours in separate processes, of the two largest
models. Prints the self time of each operator in ms per step, largest first, and its share of the step.
"""

import argparse
import json
from typing import Any

from benchmarks.processes import call

MODELS = ("cct_6_3x2", "cct_6_3x1")
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::mkldnn_convolution", "aten::convolution_backward")


def profiled(side: str, model: str, steps: int) -> dict[str, float]:
    """Self time of each operator in ms per step, the mean of `steps`."""
    if side == "ours":
        from cctkit.engine.allocator import keep_memory

        keep_memory()
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.speed.plain import PlainSide
    from cctkit.bench.task import Task
    from cctkit.bench.training import TaskTraining

    training: Any = {"ours": TaskTraining, "plain": PlainSide}[side](Task(model=model, device="cpu"))
    for _ in range(steps):  # a heap that keeps its memory grows for some steps
        training.train(training.batch)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            training.train(training.batch)
    return {event.key: event.self_cpu_time_total / 1000 / steps for event in profiler.key_averages()}


def table(times: dict[str, float], rows: int) -> str:
    """The largest operators, and the matrix products and convolutions together."""
    total = sum(times.values())
    chosen = sorted(times.items(), key=lambda item: -item[1])[:rows]
    chosen.append(("matrix products, convolutions", sum(times.get(name, 0.0) for name in PRODUCTS)))
    lines = [f"  {name[:50]:50} {ms:9.1f} ms {100 * ms / total:6.1f}%" for name, ms in chosen]
    return "\n".join([f"  {'a step':50} {total:9.1f} ms", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--steps", type=int, default=4, help="profiled steps, after the same number of warm-up steps")
    parser.add_argument("--rows", type=int, default=12, help="operators to show")
    parser.add_argument("--json", action="store_true", help="print the milliseconds as JSON")
    args = parser.parse_args()
    result: dict[str, dict[str, dict[str, float]]] = {}
    for model in args.models:
        for side in ("plain", "ours"):
            result.setdefault(model, {})[side] = call(profiled, side, model, args.steps)
            if not args.json:
                print(f"{model}, {side}\n{table(result[model][side], args.rows)}", flush=True)
    if args.json:
        print(json.dumps({"schema_version": 1, "ms": result}, indent=2))


if __name__ == "__main__":
    main()
