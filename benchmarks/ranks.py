"""Several processes against one: `python -m benchmarks.ranks`, half an hour; without the speed (--rounds 0) some minutes.

Jobs of torchrun over gloo, one thread per process. First ten steps on noise and three epochs on the digits, without dropout and
drop path: are images and augmentations the same, and how much do the losses differ? Then a run on the digits with two
processes is killed after a checkpoint and resumed with 1, 2 or 3: are the final weights the same? Last, in turns, the speed of
one process, of two, and of two unconnected processes that train at the same time with half the batch size each: the best
that the cores of this machine allow.

Prints Markdown tables and writes `ranks.json` into --output. Fails if images or losses differ, if the weights are not those of
the uninterrupted run, or if two processes are less than 1.8 times as fast as one although the machine allows it. Linux only.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data_work import make
from benchmarks.jobs import finish, launch, lines, sha256, until, worker
from cctkit.catalog.recipes import RECIPES
from cctkit.runs.runfiles import read_metrics

CLOSE = {"float64": 1e-9, "float32": 1e-5, "report": 1e-4}
"""Largest allowed difference of a loss from that of one process: over ten steps, and over three epochs on the digits.

`demo`, the digits' own recipe, has no limit: at its learning rates rounding grows beyond 1e-4 in one process too."""
LEAST_SPEED_UP, LEAST_STEPS = 1.8, 20
CASES = {"2": (2, []), "3": (3, []), "2, `--shard`": (2, ["--shard"])}
ROUNDING = {"1, `--accumulate 2`": (1, ["--accumulate", "2"])}
"""For comparison: one process that sums in another order."""
DIGITS = ["--dataset", "digits", "--model", "cct_2_3x2", "--epochs", "3", "--precision", "float32", "--threads", "1"]
DIGITS += ["--attention-dropout", "0", "--drop-path", "0", "--recipe"]
REPORT = [*DIGITS, "report"]
LOSSES = ("train_loss", "train_loss_smoothed", "test_loss")


def start(ranks: int, *arguments: str | Path, restarts: int = 0) -> "subprocess.Popen[str]":
    return launch(ranks, "-m", "cctkit", "train", *arguments, restarts=restarts)


def train(ranks: int, run: Path, *options: str) -> Path:
    """A whole run; returns its directory."""
    say(f"{run.name}: cctkit train {' '.join(options)}")
    finish(start(ranks, *options, "--output", run), timeout_s=3600)
    return run


def largest_difference(losses: Any, expected: Any) -> float:
    return float(np.abs(np.array(losses) - np.array(expected)).max())


def losses_of(run: Path) -> list[list[float]]:
    return [[line[name] for name in LOSSES] for line in lines(run)]


def ten_steps(place: Path) -> dict[str, dict[str, Any]]:
    """Per case: whether the images are those of one process, and the largest difference of a loss per number format."""
    path = place / "found.json"
    say("ten steps under 1, 2 and 3 processes")
    finish(launch(3, "-m", "tests.training.ranks", path), timeout_s=600)
    found = json.loads(path.read_text())
    (one,) = found["1"]
    rows = {}
    for name, (ranks, shard) in CASES.items():
        kind, each = "sharded" if shard else "ddp", found[str(ranks)]
        seen = [item for rank in each for item in rank[f"{kind}32"]["seen"].items()]
        rows[name] = {"same_images": sorted(seen) == sorted(one["ddp32"]["seen"].items())} | {
            f"float{bits}": max(
                largest_difference(rank[f"{kind}{bits}"]["losses"], one[f"ddp{bits}"]["losses"]) for rank in each
            )
            for bits in (64, 32)
        }
    return rows


def kill_after_checkpoint(process: "subprocess.Popen[str]", run: Path, ranks: Sequence[int]) -> None:
    """Kill some ranks of a job as soon as its first epoch is saved."""
    until(lambda: any(path.name > "step-000000000" for path in run.glob("checkpoints/step-*")))
    for pid in [worker(process.pid, rank=rank) for rank in ranks]:
        os.kill(pid, signal.SIGKILL)


def killed(run: Path, *options: str) -> Path:
    """A run with two processes, both killed after the first epoch."""
    say(f"{run.name}: cctkit train {' '.join(options)}")
    process = start(2, *options, "--output", run)
    kill_after_checkpoint(process, run, (0, 1))
    process.communicate(timeout=60)
    assert not (run / "weights.safetensors").exists()
    return run


def resumed(run: Path, ranks: int) -> Path:
    """A copy of a run, resumed to its end."""
    say(f"{run.name}: resumed under {ranks}")
    copy = Path(shutil.copytree(run, run.with_name(f"{run.name}-{ranks}")))
    finish(start(ranks, "--resume", copy), timeout_s=3600)
    return copy


def restarted(run: Path, *options: str) -> Path:
    """A run with two processes that torchrun restarts after one was killed."""
    say(f"{run.name}: cctkit train {' '.join(options)}")
    process = start(2, *options, "--output", run, restarts=1)
    kill_after_checkpoint(process, run, (1,))
    _, err = finish(process, timeout_s=3600)
    assert f"resuming {run}" in err
    return run


def digits(place: Path) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Per case the difference of the losses over three epochs with each recipe; and the rows of the killed runs."""
    runs: dict[str, Path] = {}
    differences: dict[str, dict[str, float]] = {name: {} for name in CASES | ROUNDING}
    for recipe in ("report", "demo"):
        one = train(1, place / f"{recipe}-1", *DIGITS, recipe)
        for name, (ranks, options) in (CASES | ROUNDING).items():
            if recipe == "report" or "--shard" not in options:  # which refuses the Muon of `demo`
                run = train(ranks, place / f"{recipe}-{ranks}{''.join(options)}", *DIGITS, recipe, *options)
                differences[name][recipe] = largest_difference(losses_of(run), losses_of(one))
                runs.setdefault(name, run)
    plain, parted = runs["2"], runs["2, `--shard`"]
    ended, ended_shard = killed(place / "killed", *REPORT), killed(place / "killed-shard", *REPORT, "--shard")
    rows = [
        after("2, unbroken", plain, of=plain, equal=True),
        *(after(f"2, killed, on under {n}", resumed(ended, n), of=plain, equal=n == 2) for n in (2, 1, 3)),
        after(
            "2, one killed, `--max-restarts 1`", restarted(place / "restarted", *REPORT), of=plain, equal=True
        ),
        after("2, `--shard`, unbroken", parted, of=parted, equal=True),
        *(after(f"2, `--shard`, killed, on under {n}", resumed(ended_shard, n), of=parted, equal=n == 2) for n in (2, 1, 3)),
    ]  # fmt: skip
    return differences, rows


def after(name: str, run: Path, *, of: Path, equal: bool) -> dict[str, Any]:
    """Compare a finished run with the uninterrupted run `of`; equal: whether it must be bitwise equal."""
    digest = sha256(run / "weights.safetensors")
    return {
        "run": name,
        "weights": digest[:12],
        "equal": digest == sha256(of / "weights.safetensors"),
        "has_to_be_equal": equal,
        "difference": largest_difference(losses_of(run), losses_of(of)),
    }


def images_per_s(run: Path) -> float:
    """Median over the epochs except the first, in which processes start and memory is allocated."""
    return statistics.median(float(record["images_per_s"]) for record in read_metrics(run / "metrics.jsonl")[1:])


def speed(model: str, place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Median images per second of one process, of two, and the sum of two unconnected ones, measured in turns."""
    batch_size = int(RECIPES["report"].settings(model)["batch_size"][0])
    data = args.dataset
    if data is None:
        data = place / f"{args.steps * batch_size}.safetensors"
        make(data, args.steps * batch_size, 32)
    options = ["--dataset", str(data), "--model", model, "--recipe", "report", "--epochs", str(args.epochs), "--threads", "1"]
    turns: list[dict[str, float]] = []
    for turn in range(args.rounds):
        one, two = (train(ranks, place / f"{model}-{turn}-{ranks}", *options) for ranks in (1, 2))
        halves = [place / f"{model}-{turn}-half-{i}" for i in range(2)]
        half = [*options, "--batch-size", str(batch_size // 2), "--output"]
        for process in [start(1, *half, run) for run in halves]:
            finish(process, timeout_s=3600)
        turns.append(
            {"one": images_per_s(one), "two": images_per_s(two), "unconnected": sum(images_per_s(run) for run in halves)}
        )
        say("  " + ", ".join(f"{name} {value:,.0f} images/s" for name, value in turns[-1].items()))
    found = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    for name in ("two", "unconnected"):
        found[f"{name}_by_one"] = statistics.median(turn[name] / turn["one"] for turn in turns)
    return {"model": model, "batch_size": batch_size, "steps": read_metrics(one / "metrics.jsonl")[0]["step"], **found}


def faults(result: Mapping[str, Any]) -> list[str]:
    """The limits that are exceeded."""
    wrong = []
    for name in CASES:
        row = result["losses"][name]
        if not row["same_images"]:
            wrong.append(f"{name}: the images differ from those of one process")
        wrong += [
            f"{name}: the losses differ by {row[key]:.1e} ({key}), expected at most {most}"
            for key, most in CLOSE.items()
            if not row[key] <= most
        ]
    for row in result["resumed"]:
        if row["has_to_be_equal"] and not row["equal"]:
            wrong.append(f"{row['run']}: the weights differ from those of the uninterrupted run")
        if not row["difference"] <= CLOSE["report"]:
            wrong.append(f"{row['run']}: the losses differ by {row['difference']:.1e}, expected at most {CLOSE['report']}")
    for row in result["speed"]:
        if row["steps"] < LEAST_STEPS:
            wrong.append(f"{row['model']}: {row['steps']} steps per epoch, too few for a speed, expected {LEAST_STEPS}")
        if row["unconnected_by_one"] >= LEAST_SPEED_UP > row["two_by_one"]:
            wrong.append(f"{row['model']}: {row['two_by_one']:.2f} times as fast, expected {LEAST_SPEED_UP}")
    return wrong


def tables(result: Mapping[str, Any]) -> str:
    """The Markdown tables of docs/measurements.md."""
    lines = [
        "| processes | images | float64, 10 steps | float32, 10 steps | 3 epochs, `report` | 3 epochs, `demo` |",
        "| --- | --- |" + 4 * " ---: |",
    ]
    for name, row in result["losses"].items():
        images = {True: "the same", False: "others", None: ""}[row.get("same_images")]
        losses = " | ".join(f"{row[key]:.1e}" if key in row else "" for key in (*CLOSE, "demo"))
        lines.append(f"| {name} | {images} | {losses} |")
    lines += ["", "| processes | SHA-256 of the weights | difference of the losses | |", "| --- | --- | ---: | --- |"]
    for row in result["resumed"]:
        equal = "equal" if row["equal"] else ""
        lines.append(f"| {row['run']} | `{row['weights']}` | {row['difference']:.1e} | {equal} |")
    if result["speed"]:
        lines += ["", "| model | 1 process, images/s | 2, images/s | times | 2 unconnected, times |"]
        lines += ["| --- |" + 4 * " ---: |"]
    for row in result["speed"]:
        speeds = f"{row['one']:,.0f} | {row['two']:,.0f} | {row['two_by_one']:.2f} | {row['unconnected_by_one']:.2f}"
        lines.append(f"| `{row['model']}` | {speeds} |")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def compare(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """All three parts."""
    losses = ten_steps(place)
    differences, rows = digits(place)
    return {
        "schema_version": 1,
        "losses": {name: losses.get(name, {}) | row for name, row in differences.items()},
        "resumed": rows,
        "speed": [speed(model, place, args) for model in args.models if args.rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="for the speed, as `cctkit train` takes it (default: packed noise, 32 x 32 pixels)")
    parser.add_argument("--steps", type=int, default=LEAST_STEPS, help="steps per epoch on noise")
    parser.add_argument("--models", nargs="*", default=["cct_2_3x2", "cct_6_3x2"], help="models whose speed is measured")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of the speed; 0: none")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each run for the speed; the first is not counted")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for ranks.json")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        result = compare(args, Path(place))
    (args.output / "ranks.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if args.json else tables(result))
    if wrong := faults(result):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
