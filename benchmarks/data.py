"""Memory, start and speed against the number of images: `python -m benchmarks.data`, two minutes; with --full, an hour.

Synthetic data sets are packed into a temporary folder, one by one: with --full of up to two million images of 32 x 32 pixels,
and of 20,000 of 224 x 224 (13 GB of disk for a while); else small ones. For each size a process of its own trains a few steps
through the loop of `cctkit train`; counted is its anonymous memory (RssAnon: mapped files are not in it) at its peak. Then the
smallest and the largest set train in turns. Last, a folder of PNG files (60,000 with --full) is opened for the second time.

Prints bytes an image, seconds to start, and speeds; writes `data.json` and the picture `data.svg` into --output. With --full it
fails where more than 64 bytes an image (judged from a million on), 2 s for a packed file, 1 s for a folder that is packed
already, or 3% of the speed are lost. Linux only.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECIPES = ("report", "shi-300")
MOST_BYTES, MOST_START_S, MOST_AGAIN_S, LEAST_SPEED = 64, 2.0, 1.0, 0.97
WITHOUT_HUGE_PAGES = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"}
"""While memory is counted: which pages the kernel makes huge differs from run to run by 80 MB."""
JUDGED_FROM = 1_000_000  # images; with fewer the noise of a few megabytes would be judged
MODELS = {32: ("cct_2_3x2", 128), 224: ("cct_7_7x2_224", 16)}
"""Of each size of image: the model and its batch."""


def worker(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """A process of `data_work.py`."""
    command = [sys.executable, str(Path(__file__).with_name("data_work.py")), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def result_of(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    return out


def compare(paths: Mapping[str, Path], model: str, *, kind: str, steps: int, batch_size: int, rounds: int) -> dict[str, float]:
    """The smallest and the largest file take turns: the medians of `rounds` of images a second, and of the turns' ratios, by
    the clock and by a processor's seconds."""
    processes = {name: worker("turns", path, model, batch_size, stdin=subprocess.PIPE) for name, path in paths.items()}
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    for turn in range(rounds + 1):
        for name in list(paths)[:: 1 if turn % 2 else -1]:
            process = processes[name]
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{kind} {steps}\n")
            process.stdin.flush()
            clock, processor = map(float, process.stdout.readline().split())
            if turn:  # the first one warms up
                speeds[name].append((clock, processor))
    for process in processes.values():
        process.communicate()
    turns = list(zip(*speeds.values(), strict=True))
    return {name: statistics.median(clock for clock, _ in values) for name, values in speeds.items()} | {
        "ratio": statistics.median(large[0] / small[0] for small, large in turns),
        "processor_ratio": statistics.median(large[1] / small[1] for small, large in turns),
    }


def measure(folder: Path, numbers: list[int], side: int, args: argparse.Namespace) -> dict[str, Any]:
    """All of one size of image: packing, memory and start by number of images and recipe, speed of the ends."""
    model, batch_size = MODELS[side]
    large = side > 32
    steps, rounds = (args.large_steps, args.large_turns) if large else (args.steps, args.turns)
    paths = {number: folder / f"{side}-{number}.safetensors" for number in numbers}
    packing, memory = {}, []
    for number, path in paths.items():
        start = time.perf_counter()
        result_of(worker("make", path, number, side))
        packing[number] = number / (time.perf_counter() - start)
        size = path.stat().st_size / 1e9
        say(f"packed {number:>9,} images of {side} x {side}: {packing[number]:,.0f} images/s, {size:.2f} GB")
    for recipe, number in itertools.product(RECIPES, numbers):
        command = ("training", paths[number], model, recipe, steps, batch_size)
        runs = [json.loads(result_of(worker(*command, env=WITHOUT_HUGE_PAGES))) for _ in range(args.runs)]
        row = {"recipe": recipe, "images": number} | {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        memory.append(row)
        say(f"{recipe:8} {number:>9,} images: start {row['start_s']:.2f} s, {row['anonymous_bytes'] / 1e6:.0f} MB anonymous")
    for recipe in RECIPES:
        say(f"{recipe}: {bytes_an_image(memory, recipe):.1f} bytes an image")
    ends = {"smallest": paths[numbers[0]], "largest": paths[numbers[-1]]}
    chunk = max(1, min(4096, 32 * 2**20 // (3 * side * side)) // batch_size)  # steps of a whole chunk, as the loader makes them
    speed = {
        kind: compare(ends, model, kind=kind, steps=chunk, batch_size=batch_size, rounds=rounds) for kind in ("train", "input")
    }
    for kind, found in speed.items():
        say(
            f"{kind}: {found['smallest']:,.1f} and {found['largest']:,.1f} images/s, in turns {found['ratio']:.3f}; "
            f"by a processor's seconds {found['processor_ratio']:.3f}"
        )
    return {"side": side, "model": model, "packing_images_per_s": packing, "memory": memory, "images_per_s": speed}


def bytes_an_image(rows: list[dict[str, Any]], recipe: str) -> float:
    """By how much anonymous memory grows from the smallest set to the largest."""
    first, *_, last = [row for row in rows if row["recipe"] == recipe]
    return float((last["anonymous_bytes"] - first["anonymous_bytes"]) / (last["images"] - first["images"]))


def faults(parts: list[dict[str, Any]], folder: Mapping[str, Any]) -> list[str]:
    """What is not as promised. Bytes an image are judged where they are more than the noise of a few megabytes."""
    wrong = []
    for part in parts:
        rows, speed, side = part["memory"], part["images_per_s"]["train"], f"{part['side']} pixels"
        for recipe in RECIPES:
            grown = bytes_an_image(rows, recipe)
            if rows[-1]["images"] >= JUDGED_FROM and grown > MOST_BYTES:
                wrong.append(f"{side}: {recipe} takes {grown:.1f} bytes an image, expected at most {MOST_BYTES}")
        slowest = max(row["start_s"] for row in rows)
        if slowest > MOST_START_S:
            wrong.append(f"{side}: {slowest:.2f} s to start, expected at most {MOST_START_S}")
        if speed["ratio"] < LEAST_SPEED:
            wrong.append(f"{side}: {speed['ratio']:.3f} of the speed, expected at least {LEAST_SPEED}")
    if folder and folder["again"]["ready_s"] > MOST_AGAIN_S:
        wrong.append(f"{folder['again']['ready_s']:.2f} s to open a folder again, expected at most {MOST_AGAIN_S}")
    return wrong


def draw(part: Mapping[str, Any], path: Path) -> None:
    """Anonymous memory above that of the smallest set, over the number of images, and what was promised."""
    from cctkit.plots.frame import COLOURS, GREY, label, new_figure, save_figure, style

    with style():
        figure, (axes,) = new_figure()
        for recipe, colour in zip(RECIPES, COLOURS, strict=False):
            rows = [row for row in part["memory"] if row["recipe"] == recipe]
            millions = [row["images"] / 1e6 for row in rows]
            grown = [(row["anonymous_bytes"] - rows[0]["anonymous_bytes"]) / 1e6 for row in rows]
            name = f"{recipe}: {bytes_an_image(part['memory'], recipe):.0f} bytes an image"
            axes.plot(millions, grown, color=colour, marker="o", markersize=4, label=name)
        promised = [MOST_BYTES * (number - millions[0]) for number in millions]
        axes.plot(millions, promised, color=GREY, linestyle=(0, (4, 3)), label=f"{MOST_BYTES} bytes an image")
        label(axes, f"Anonymous memory while training, {part['side']} x {part['side']} pixels", "million images", "MB more")
        axes.legend(loc="upper left")
        save_figure(figure, path)


def say(text: str) -> None:
    print(text, flush=True)


def folder_twice(folder: Path, images: int) -> dict[str, Any]:
    """A folder that is packed into a cache of its own, and opened again by another process."""
    environment = {**os.environ, "CCTKIT_CACHE": str(folder / "cache")}
    result_of(worker("folder", folder / "images", images))
    first, *later = (json.loads(result_of(worker("opening", folder / "images", env=environment))) for _ in range(6))
    again = min(later, key=lambda one: one["ready_s"])
    say(f"a folder of {images:,} PNG files: {first['ready_s']:.1f} s the first time; later, the best of {len(later)}:")
    say("{ready_s:.2f} s, {processor_s:.2f} s of a processor, {first_batch_s:.2f} s to the first batch".format_map(again))
    return {"images": images, "first": first, "again": again}


SIZES = {
    "images": (40_000, 2_000_000, "of 32 x 32 pixels, in the largest set; 0: none"),
    "large_images": (400, 20_000, "of 224 x 224 pixels; 0: none"),
    "folder_images": (2_000, 60_000, "PNG files; 0: none"),
    "runs": (1, 3, "of which the median of memory and start is taken"),
    "steps": (4, 40, "of training while memory is counted"),
    "turns": (1, 7, "of training for the speed, each of a chunk of images, as the loader makes them"),
    "large_steps": (2, 4, "the same, with the large images"),
    "large_turns": (1, 3, "the same, with the large images"),
}
"""Of each option: what it is, and with --full."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes that are promised")
    for name, (small, full, text) in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{text} ({small:,}, with --full {full:,})")
    parser.add_argument("--output", type=Path, default=Path(), help="where data.json and data.svg go")
    parser.add_argument("--temporary", type=Path, help="where the data sets are made (default: the system's)")
    args = parser.parse_args()
    for name, sizes in SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, sizes[args.full])
    return args


def main() -> None:
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    parts, found = [], {}
    for side, largest, shares in ((32, args.images, (40 if args.full else 8, 4, 2, 1)), (224, args.large_images, (4, 1))):
        if largest:
            with tempfile.TemporaryDirectory(dir=args.temporary) as folder:
                parts.append(measure(Path(folder), [largest // share for share in shares], side, args))
    if args.folder_images:
        with tempfile.TemporaryDirectory(dir=args.temporary) as folder:
            found = folder_twice(Path(folder), args.folder_images)
    if args.images:
        draw(parts[0], args.output / "data.svg")
    wrong = faults(parts, found) if args.full else []
    report = {"schema_version": 1, "parts": parts, "folder": found, "faults": wrong}
    (args.output / "data.json").write_text(json.dumps(report, indent=2) + "\n")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
