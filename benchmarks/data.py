"""Memory, start and speed against the number of images: `python benchmarks/data.py` (20 GB of disk for a while, half an hour).

Synthetic data sets are packed into a temporary folder: of 32 x 32 pixels and up to two million images, and of 224 x 224. For
each size a process of its own trains a few steps through the loop of `cctkit train`; counted is its anonymous memory (RssAnon:
mapped files are not in it) at its peak. Then the smallest and the largest set train in turns. A quick look:
`python benchmarks/data.py --images 40000 --large-images 400 --steps 2 --large-steps 2 --turns 1 --large-turns 1`.

Prints bytes an image, seconds to start, and speeds; writes `data.json`, `data-32.png` and `data-224.png` into --output; fails
where more than 64 bytes an image (judged from a million on), 2 s to start, or 3% of the speed are lost. Linux only.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TEST_IMAGES = 2000
CLASSES = 100
RECIPES = ("report", "shi-300")
MOST_BYTES, MOST_START_S, LEAST_SPEED = 64, 2.0, 0.97
JUDGED_FROM = 1_000_000  # images; with fewer the noise of a few megabytes would be judged
MODELS = {32: ("cct_2_3x2", 128), 224: ("cct_7_7x2_224", 16)}
"""Of each size of image: the model and its batch."""


def make(path: Path, images: int, side: int) -> None:
    """A packed file of noise: every image is another part of a few megabytes, or nearly so."""
    import numpy as np

    from cctkit.data.packing import Packing, pack
    from cctkit.data.source import ROLES, Source

    noise = np.random.default_rng(0).integers(0, 256, 8 * 2**20 + 3 * side * side, dtype=np.uint8)

    def read(i: int) -> Any:
        start = i * 7919 % (8 * 2**20)
        return noise[start : start + 3 * side * side].reshape(side, side, 3)

    number = images + TEST_IMAGES
    roles = np.full(number, ROLES.index("train"), dtype=np.int8)
    roles[images:] = ROLES.index("test")
    source = Source(
        name=f"noise of {images}",
        place=str(path),
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        labels=np.arange(number) % CLASSES,
        roles=roles,
        ids=[f"{i % CLASSES}/{i}.png" for i in range(number)],
        read=read,
    )
    how = Packing(key=f"{images} of {side}", size=(side, side), mode="crop", skip_bad=False)
    pack(source, path, how=how, progress=lambda *_: None)


def anonymous_bytes() -> int:
    """Of this process, in memory: what no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel does not tell anonymous memory from mapped files")


class Peak:
    """The most anonymous memory within a `with`, looked at every 5 ms."""

    def __enter__(self) -> "Peak":
        self.bytes = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def training(path: Path, model: str, recipe: str, steps: int, batch_size: int) -> dict[str, float]:
    """Start and train some steps as `cctkit train` does: seconds to have the data, and the peak of anonymous memory."""
    from cctkit.training.allocator import keep_memory

    keep_memory()
    from cctkit.config import DataConfig
    from cctkit.data.dataset import load_dataset
    from cctkit.errors import StoppedError
    from cctkit.training.prepare import Request
    from cctkit.training.run import start_run
    from cctkit.training.stopping import StopRequest

    stop = StopRequest()

    class Stopper:
        log_every_s = 0.0

        def progress(self, now: Any) -> None:
            if now.epoch * now.steps + now.step >= steps:
                stop.signal_number = 15

        def notice(self, *_: Any) -> None: ...
        def evaluating(self, *_: Any) -> None: ...
        def epoch(self, *_: Any) -> None: ...

    flags = {"dataset": str(path), "model": model, "batch_size": batch_size}
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        start = time.perf_counter()
        load_dataset(DataConfig(dataset=str(path)))
        seconds = time.perf_counter() - start
        request = Request(flags=flags, file_values={}, recipe=recipe, output=Path(folder) / "run")
        with contextlib.suppress(StoppedError):
            start_run(request, reporter=Stopper(), stop=stop, data_progress=lambda *_: None)
    return {"start_s": seconds, "anonymous_bytes": peak.bytes}


def turns(path: Path, model: str, batch_size: int) -> None:
    """For every line on stdin: so many steps, or without a model batches, and the images a second on stdout."""
    from cctkit.training.allocator import keep_memory

    keep_memory()
    from cctkit.catalog.models import named_config
    from cctkit.config import DataConfig, TrainConfig
    from cctkit.data.augment import Batch
    from cctkit.data.dataset import load_dataset
    from cctkit.data.epoch import epoch_batches
    from cctkit.models.build import build_model
    from cctkit.training.device import choose_policy
    from cctkit.training.optim import make_optimizers
    from cctkit.training.step import new_state, train_step

    dataset, policy = load_dataset(DataConfig(dataset=str(path))), choose_policy()
    config = TrainConfig(batch_size=batch_size)

    def stream() -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from epoch_batches(
                dataset.train,
                config=config,
                epoch=epoch,
                num_images=len(dataset.train),
                stored_size=dataset.stored_size,
                mean=dataset.mean,
                std=dataset.std,
                device=policy.device,
            )

    net = policy.prepare(build_model(named_config(model, num_classes=CLASSES), seed=0)).train()
    state = new_state(net, make_optimizers(net, config), ema=None, policy=policy)
    batches = stream()
    for line in sys.stdin:
        kind, steps = line.split()
        start = time.perf_counter()
        for batch in itertools.islice(batches, int(steps)):
            if kind == "train":
                train_step(state, batch, config=config, policy=policy, lr_factor=1.0)
        print(int(steps) * batch_size / (time.perf_counter() - start), flush=True)


def worker(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """This file again, as a process of its own."""
    command = [sys.executable, __file__, "--worker", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def result_of(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    return out


def compare(paths: Mapping[str, Path], model: str, *, kind: str, steps: int, batch_size: int, rounds: int) -> dict[str, float]:
    """Images a second of each file, the median of `rounds`, the files taking turns."""
    processes = {name: worker("turns", path, model, batch_size, stdin=subprocess.PIPE) for name, path in paths.items()}
    speeds: dict[str, list[float]] = {name: [] for name in paths}
    for turn in range(rounds + 1):
        for name in list(paths)[:: 1 if turn % 2 else -1]:
            process = processes[name]
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{kind} {steps}\n")
            process.stdin.flush()
            speed = float(process.stdout.readline())
            if turn:  # the first one warms up
                speeds[name].append(speed)
    for process in processes.values():
        process.communicate()
    return {name: statistics.median(values) for name, values in speeds.items()}


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
        packing[number] = (number + TEST_IMAGES) / (time.perf_counter() - start)
        size = path.stat().st_size / 1e9
        say(f"packed {number:>9,} images of {side} x {side}: {packing[number]:,.0f} images/s, {size:.2f} GB")
    for recipe, number in itertools.product(RECIPES, numbers):
        out = result_of(worker("training", paths[number], model, recipe, steps, batch_size))
        row = {"recipe": recipe, "images": number, **json.loads(out)}
        memory.append(row)
        say(f"{recipe:8} {number:>9,} images: start {row['start_s']:.2f} s, {row['anonymous_bytes'] / 1e6:.0f} MB anonymous")
    for recipe in RECIPES:
        say(f"{recipe}: {bytes_an_image(memory, recipe):.1f} bytes an image")
    ends = {"smallest": paths[numbers[0]], "largest": paths[numbers[-1]]}
    chunk = max(1, min(4096, 32 * 2**20 // (3 * side * side)) // batch_size)  # steps of a whole chunk, as the loader makes them
    speed = {
        kind: compare(ends, model, kind=kind, steps=chunk * args.chunks, batch_size=batch_size, rounds=rounds)
        for kind in ("train", "input")
    }
    for kind, found in speed.items():
        say(
            f"{kind}: {found['smallest']:,.1f} and {found['largest']:,.1f} images/s, {found['largest'] / found['smallest']:.3f}"
        )
    return {"side": side, "model": model, "packing_images_per_s": packing, "memory": memory, "images_per_s": speed}


def bytes_an_image(rows: list[dict[str, Any]], recipe: str) -> float:
    """By how much anonymous memory grows from the smallest set to the largest."""
    first, *_, last = [row for row in rows if row["recipe"] == recipe]
    return float((last["anonymous_bytes"] - first["anonymous_bytes"]) / (last["images"] - first["images"]))


def faults(parts: list[dict[str, Any]]) -> list[str]:
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
        if speed["largest"] < LEAST_SPEED * speed["smallest"]:
            wrong.append(f"{side}: {speed['largest'] / speed['smallest']:.3f} of the speed, expected at least {LEAST_SPEED}")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000_000, help="of 32 x 32 pixels, in the largest set; 0: none")
    parser.add_argument("--large-images", type=int, default=20_000, help="of 224 x 224 pixels; 0: none")
    parser.add_argument("--steps", type=int, default=40, help="of training while memory is counted")
    parser.add_argument("--turns", type=int, default=7, help="of training for the speed, each of --chunks chunks")
    parser.add_argument("--large-steps", type=int, default=4, help="the same, with the large images")
    parser.add_argument("--large-turns", type=int, default=3, help="the same, with the large images")
    parser.add_argument("--chunks", type=int, default=1, help="of images that the loader makes at a time")
    parser.add_argument("--output", type=Path, default=Path(), help="where data.json and data.png go")
    parser.add_argument("--temporary", type=Path, help="where the data sets are made (default: the system's)")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, path, *rest = args.worker
        if kind == "make":
            make(Path(path), int(rest[0]), int(rest[1]))
        elif kind == "training":
            say(json.dumps(training(Path(path), rest[0], rest[1], int(rest[2]), int(rest[3]))))
        else:
            turns(Path(path), rest[0], int(rest[1]))
        return
    args.output.mkdir(parents=True, exist_ok=True)
    parts = []
    for side, largest, shares in ((32, args.images, (40, 4, 2, 1)), (224, args.large_images, (20, 1))):
        if largest == 0:
            continue
        with tempfile.TemporaryDirectory(dir=args.temporary) as folder:
            part = measure(Path(folder), [largest // share for share in shares], side, args)
        draw(part, args.output / f"data-{side}.png")
        parts.append(part)
    wrong = faults(parts)
    (args.output / "data.json").write_text(json.dumps({"schema_version": 1, "parts": parts, "faults": wrong}, indent=2) + "\n")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
