"""Memory, start-up and speed by the number of images: `python -m benchmarks.data`, two minutes; with --full, an hour.

Packs synthetic data sets into a temporary folder: with --full up to two million images of 32 x 32 pixels and 20,000 of
224 x 224 (13 GB of disk), otherwise small ones. For each number of images a fresh process trains a few steps as `cctkit train`
does; its peak anonymous memory is measured (RssAnon, which excludes mapped files). Then the smallest and the largest set train
in turns. Last, a folder of PNG files (60,000 with --full) is opened a second time.

Prints bytes per image, seconds to start and speeds; writes `data.json` and `data.svg` into --output. With --full it fails if
training takes more than 64 bytes per image (judged from a million images on), a packed file more than 2 s or a packed folder
more than 1 s to open, or if more than 3% of the speed is lost. Linux only.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import data_work
from benchmarks.processes import call, fresh_process

RECIPES = ("report", "shi-300")
MOST_BYTES, MOST_START_S, MOST_AGAIN_S, LEAST_SPEED = 64, 2.0, 1.0, 0.97
JUDGED_FROM = 1_000_000  # images; with fewer, noise of a few megabytes decides
MODELS = {32: ("cct_2_3x2", 128), 224: ("cct_7_7x2_224", 16)}
"""Side of the images in pixels -> model and batch size."""


def compare(paths: Mapping[str, Path], model: str, *, kind: str, steps: int, batch_size: int, rounds: int) -> dict[str, float]:
    """The smallest and the largest file take turns: median images per second of each, and the median ratio of the turns, by
    wall-clock time and by CPU time."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(fresh_process()) for name in paths}
        for name, path in paths.items():
            processes[name].submit(data_work.prepare_turns, path, model, batch_size).result()
        for number in range(rounds + 1):
            for name in list(paths)[:: 1 if number % 2 else -1]:
                speed = processes[name].submit(data_work.turn, kind, steps).result()
                if number:  # the first turn warms up
                    speeds[name].append(speed)
    turns = list(zip(*speeds.values(), strict=True))
    return {name: statistics.median(clock for clock, _ in values) for name, values in speeds.items()} | {
        "ratio": statistics.median(large[0] / small[0] for small, large in turns),
        "processor_ratio": statistics.median(large[1] / small[1] for small, large in turns),
    }


def measure(folder: Path, numbers: list[int], side: int, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one image size: packing, memory and start-up by number of images and recipe, speed of the two ends."""
    model, batch_size = MODELS[side]
    large = side > 32
    steps, rounds = (args.large_steps, args.large_turns) if large else (args.steps, args.turns)
    paths = {number: folder / f"{side}-{number}.safetensors" for number in numbers}
    packing, memory = {}, []
    for number, path in paths.items():
        start = time.perf_counter()
        call(data_work.make, path, number, side)
        packing[number] = number / (time.perf_counter() - start)
        size = path.stat().st_size / 1e9
        say(f"packed {number:>9,} images of {side} x {side}: {packing[number]:,.0f} images/s, {size:.2f} GB")
    for recipe, number in itertools.product(RECIPES, numbers):
        work = (data_work.training, paths[number], model, recipe, steps, batch_size)
        # Without huge pages: which pages the kernel makes huge differs by 80 MB from run to run.
        runs = [call(*work, THP_MEM_ALLOC_ENABLE="0") for _ in range(args.runs)]
        row = {"recipe": recipe, "images": number} | {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        memory.append(row)
        say(f"{recipe:8} {number:>9,} images: start {row['start_s']:.2f} s, {row['anonymous_bytes'] / 1e6:.0f} MB anonymous")
    for recipe in RECIPES:
        say(f"{recipe}: {bytes_per_image(memory, recipe):.1f} bytes per image")
    ends = {"smallest": paths[numbers[0]], "largest": paths[numbers[-1]]}
    chunk = max(1, min(4096, 32 * 2**20 // (3 * side * side)) // batch_size)  # steps per chunk of the loader
    speed = {
        kind: compare(ends, model, kind=kind, steps=chunk, batch_size=batch_size, rounds=rounds) for kind in ("train", "input")
    }
    for kind, found in speed.items():
        say(
            f"{kind}: {found['smallest']:,.1f} and {found['largest']:,.1f} images/s, in turns {found['ratio']:.3f}; "
            f"by CPU time {found['processor_ratio']:.3f}"
        )
    return {"side": side, "model": model, "packing_images_per_s": packing, "memory": memory, "images_per_s": speed}


def bytes_per_image(rows: list[dict[str, Any]], recipe: str) -> float:
    """Growth of the anonymous memory from the smallest set to the largest, per image."""
    first, *_, last = [row for row in rows if row["recipe"] == recipe]
    return float((last["anonymous_bytes"] - first["anonymous_bytes"]) / (last["images"] - first["images"]))


def faults(parts: list[dict[str, Any]], folder: Mapping[str, Any]) -> list[str]:
    """The limits that are exceeded."""
    wrong = []
    for part in parts:
        rows, speed, side = part["memory"], part["images_per_s"]["train"], f"{part['side']} pixels"
        for recipe in RECIPES:
            grown = bytes_per_image(rows, recipe)
            if rows[-1]["images"] >= JUDGED_FROM and grown > MOST_BYTES:
                wrong.append(f"{side}: {recipe} takes {grown:.1f} bytes per image, expected at most {MOST_BYTES}")
        slowest = max(row["start_s"] for row in rows)
        if slowest > MOST_START_S:
            wrong.append(f"{side}: {slowest:.2f} s to start, expected at most {MOST_START_S}")
        if speed["ratio"] < LEAST_SPEED:
            wrong.append(f"{side}: {speed['ratio']:.3f} of the speed, expected at least {LEAST_SPEED}")
    if folder and folder["again"]["ready_s"] > MOST_AGAIN_S:
        wrong.append(f"{folder['again']['ready_s']:.2f} s to open a folder again, expected at most {MOST_AGAIN_S}")
    return wrong


def draw(part: Mapping[str, Any], path: Path) -> None:
    """Plot the anonymous memory above that of the smallest set over the number of images, and the limit."""
    from cctkit.plots.frame import COLOURS, GREY, label, new_figure, save_figure, style

    with style():
        figure, (axes,) = new_figure()
        for recipe, colour in zip(RECIPES, COLOURS, strict=False):
            rows = [row for row in part["memory"] if row["recipe"] == recipe]
            millions = [row["images"] / 1e6 for row in rows]
            grown = [(row["anonymous_bytes"] - rows[0]["anonymous_bytes"]) / 1e6 for row in rows]
            name = f"{recipe}: {bytes_per_image(part['memory'], recipe):.0f} bytes per image"
            axes.plot(millions, grown, color=colour, marker="o", markersize=4, label=name)
        promised = [MOST_BYTES * (number - millions[0]) for number in millions]
        axes.plot(millions, promised, color=GREY, linestyle=(0, (4, 3)), label=f"{MOST_BYTES} bytes per image")
        label(axes, f"Anonymous memory while training, {part['side']} x {part['side']} pixels", "million images", "MB more")
        axes.legend(loc="upper left")
        save_figure(figure, path)


def say(text: str) -> None:
    print(text, flush=True)


def folder_twice(folder: Path, images: int) -> dict[str, Any]:
    """Open a folder, which packs it into an own cache, and open it again in fresh processes."""
    call(data_work.make_folder, folder / "images", images)
    first, *later = (call(data_work.opening, folder / "images", CCTKIT_CACHE=str(folder / "cache")) for _ in range(6))
    again = min(later, key=lambda one: one["ready_s"])
    say(f"a folder of {images:,} PNG files: {first['ready_s']:.1f} s the first time; later, the best of {len(later)}:")
    say("{ready_s:.2f} s, {processor_s:.2f} s of CPU time, {first_batch_s:.2f} s to the first batch".format_map(again))
    return {"images": images, "first": first, "again": again}


SIZES = {
    "images": (40_000, 2_000_000, "of 32 x 32 pixels, in the largest set; 0: none"),
    "large_images": (400, 20_000, "of 224 x 224 pixels; 0: none"),
    "folder_images": (2_000, 60_000, "PNG files; 0: none"),
    "runs": (1, 3, "of each case; the medians of memory and start-up are reported"),
    "steps": (4, 40, "of training while memory is measured"),
    "turns": (1, 7, "of the speed, one chunk of the loader each"),
    "large_steps": (2, 4, "as --steps, for the large images"),
    "large_turns": (1, 3, "as --turns, for the large images"),
}
"""Option -> its default, with --full, and its help."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes of docs/measurements.md")
    for name, (small, full, text) in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{text} ({small:,}, with --full {full:,})")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for data.json and data.svg")
    parser.add_argument("--temporary", type=Path, help="folder for the data sets (default: the system's)")
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
