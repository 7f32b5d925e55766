"""Our speed and memory against plain torch and the limit set by the matrix products: `python -m benchmarks.speed`.

Three processes, of plain torch, ours and the limit, take turns for each model.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.speed.turns import FULL, QUICK, measure
from cctkit.bench.task import MODELS, Task

# Columns: heading, figure, and for a ratio the figure it is divided by.
COLUMNS: Mapping[str, Sequence[tuple[str, str, str | None]]] = {
    "training step, images/s": (
        ("plain", "plain_step", None),
        ("ours", "step", None),
        ("limit", "floor", None),
        ("ours/plain", "step", "plain_step"),
        ("ours/limit", "step", "floor"),
    ),
    "whole epochs with their data, images/s": (
        ("plain", "plain_epoch", None),
        ("ours", "epoch", None),
        ("ours/plain", "epoch", "plain_epoch"),
        ("epoch/step", "epoch", "step"),
    ),
    "inference, images/s": (
        ("plain", "plain_inference", None),
        ("ours", "inference", None),
        ("limit", "inference_floor", None),
        ("ours/plain", "inference", "plain_inference"),
        ("ours/limit", "inference", "inference_floor"),
    ),
    "peak memory of a training step, bytes": (
        ("plain", "plain_peak_bytes", None),
        ("ours", "peak_bytes", None),
        ("ours/plain", "peak_bytes", "plain_peak_bytes"),
    ),
}


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `measure` as Markdown tables."""
    lines = []
    for title, columns in COLUMNS.items():
        lines += ["", title, "", "| model | " + " | ".join(heading for heading, _, _ in columns) + " |"]
        lines.append("| --- |" + " ---: |" * len(columns))
        for row in rows:
            shown = [f"{row[over] / row[under]:.2f}" if under else f"{row[over]:,.0f}" for _, over, under in columns]
            lines.append(f"| `{row['model']}` | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="may be repeated; default: " + ", ".join(MODELS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="one short round per model")
    parser.add_argument("--json", action="store_true", help="print JSON, schema version 1")
    args = parser.parse_args()
    tasks = [
        Task(model=name, device=args.device, batch_size=args.batch_size, threads=args.threads) for name in args.model or MODELS
    ]
    result = measure(tasks, effort=QUICK if args.quick else FULL, notify=lambda text: print(text, file=sys.stderr))
    policy = result["policy"]
    print(
        json.dumps(result, indent=2)
        if args.json
        else f"{result['cpu']}, {policy['threads']} threads, torch {result['torch']}, {policy['precision']}, attention "
        f"{policy['attention']} in training, {policy['attention_in_evaluation']} in inference\n{tables(result['rows'])}"
    )


if __name__ == "__main__":
    main()
