"""Training in bf16 against float32, over several seeds: `python -m benchmarks.precision [--dataset FOLDER]`.

One run of `cctkit train` per number format and seed, into --output; finished runs there are reused, so rerun the same command
to resume. Prints the test accuracy of each seed, the train and test loss by epoch, and the time per epoch; writes
`precision.json` and `precision.png`. Fails if the means of the formats differ by more than the seeds of one format do.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cctkit.plots.frame import COLOURS, label, new_figure, save_figure, style
from cctkit.runs.runfiles import read_metrics

FORMATS = ("float32", "bf16")
LOSSES = ("train_loss", "test_loss")


def train(run: Path, *, precision: str, seed: int, args: argparse.Namespace) -> None:
    """Run this format and seed, or resume it, unless it is finished."""
    if (run / "result.json").exists():
        return
    command = ["train", "--dataset", args.dataset, "--model", args.model, "--precision", precision, "--seed", str(seed)]
    command += ["--test-every-epoch"]
    command += [] if args.epochs is None else ["--epochs", str(args.epochs)]
    command += [] if args.threads is None else ["--threads", str(args.threads)]
    sys.stderr.write(f"cctkit {' '.join(command)}\n")
    place = ["--resume", str(run)] if run.exists() else [*command[1:], "--output", str(run)]
    subprocess.run([sys.executable, "-m", "cctkit", "train", *place, "--quiet"], stdout=subprocess.DEVNULL, check=True)


def read(run: Path) -> dict[str, Any]:
    """The figures of a run that are compared."""
    records = read_metrics(run / "metrics.jsonl")
    return {
        "test_top1_percent": records[-1]["test_top1_percent"],
        "seconds_per_epoch": statistics.median_high(record["train_seconds"] for record in records),
        **{key: [record[key] for record in records] for key in LOSSES},
    }


def spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def table(formats: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = [f"{'':9}{'s/epoch':>8}  {'mean':>6}  {'spread':>6}  test top-1 by seed, %"]
    for name, runs in formats.items():
        top1 = [run["test_top1_percent"] for run in runs]
        seconds = fmean(run["seconds_per_epoch"] for run in runs)
        each = " ".join(f"{value:6.2f}" for value in top1)
        lines.append(f"{name:9}{seconds:8.1f}  {fmean(top1):6.2f}  {spread(top1):6.2f}  {each}")
    heads = [f"{' '.join((name, key.partition('_')[0])):>14}" for key in LOSSES for name in formats]
    lines += ["", f"{'mean loss':9}{''.join(heads)}"]
    curves = [[run[key] for run in runs] for key in LOSSES for runs in formats.values()]
    for epoch in range(len(curves[0][0])):
        values = [fmean(curve[epoch] for curve in runs) for runs in curves]
        lines.append(f"epoch {epoch + 1:<3}{''.join(f'{value:14.4f}' for value in values)}")
    return "\n".join(lines)


def draw(formats: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, title: str) -> None:
    """Plot the train and the test loss by epoch, one line per run, one colour per format."""
    with style():
        figure, panels = new_figure(columns=2, width=11)
        for axes, key in zip(panels, LOSSES, strict=True):
            for (name, runs), colour in zip(formats.items(), COLOURS, strict=False):
                for number, run in enumerate(runs):
                    epochs = range(1, len(run[key]) + 1)
                    axes.plot(epochs, run[key], color=colour, alpha=0.7, label="_" if number else f"{name}, {len(runs)} seeds")
            label(axes, f"{key.replace('_', ' ').capitalize()}: {title}", "epoch", "nats per image")
        panels[0].legend(loc="best")
        save_figure(figure, path)


def fault(formats: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """The message if the means differ by more than the seeds of one format."""
    top1 = {name: [run["test_top1_percent"] for run in runs] for name, runs in formats.items()}
    difference = abs(fmean(top1["bf16"]) - fmean(top1["float32"]))
    allowed = max(spread(values) for values in top1.values())
    if difference <= allowed:
        return None
    return f"the means differ by {difference:.2f} points, the seeds of one format by at most {allowed:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="what `cctkit train` takes")
    parser.add_argument("--model", default="cct_2_3x2")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs, precision.json and precision.png")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    formats: dict[str, list[dict[str, Any]]] = {name: [] for name in FORMATS}
    for seed in range(args.seeds):
        for name, runs in formats.items():
            run = args.output / f"{name}-{seed}"
            train(run, precision=name, seed=seed, args=args)
            runs.append(read(run))
    result = {"schema_version": 1, "dataset": args.dataset, "model": args.model, "formats": formats}
    (args.output / "precision.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(formats, args.output / "precision.png", args.model)
    print(json.dumps(result, indent=2) if args.json else table(formats))
    if wrong := fault(formats):
        sys.exit(wrong)


if __name__ == "__main__":
    main()
