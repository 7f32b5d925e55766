"""`cctkit bench`."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cctkit.cli import completion
from cctkit.cli.options import Json, Quiet, classes_option, flag, option
from cctkit.columns import Column, table_of
from cctkit.errors import UserError
from cctkit.text import safe_text

if TYPE_CHECKING:
    from rich.console import Group

_DEVICES = ("auto", "cpu", "cuda")
_NOTE = (
    "Step: forward, backward and update on one batch; epoch: the same with the data read, augmented and normalised. "
    "The report's regularisation: attention dropout 0.1 and drop path 0.1. Memory: the allocator's peak of a training step."
)
_CUDA_NOTE = "This command has never been tested on CUDA; check its figures before you rely on them."


def bench(
    model: Annotated[
        list[str] | None,
        flag(
            "--model",
            "-m",
            text="model of the catalog; may be repeated",
            default="six models for 32 x 32 images",
            complete=completion.models,
        ),
    ] = None,
    batch_size: Annotated[int, option("batch_size", default=128)] = 128,
    image_size: Annotated[str | None, option("image_size", default="the model's")] = None,
    num_classes: Annotated[int, classes_option(100)] = 100,
    num_images: Annotated[
        int, flag("--num-images", text="training images of the run whose duration is estimated", default=50_000, at_least=1)
    ] = 50_000,
    epochs: Annotated[int, option("epochs", text="epochs of that run", default=30)] = 30,
    device: Annotated[str, option("device", text="auto, cpu or cuda", default="auto")] = "auto",
    threads: Annotated[int | None, option("threads")] = None,
    quick: Annotated[bool, flag("--quick", text="one short round per model")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure this machine: images per second in training and inference, memory, and how long a run would take."""
    if device not in _DEVICES:
        raise UserError(f"bench cannot measure '{safe_text(device)}', expected {', '.join(_DEVICES)}", "--device")
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write of GPUs that it does not find
    from cctkit.bench.measure import FULL, QUICK, measure
    from cctkit.bench.task import MODELS, Task
    from cctkit.cli.progress import PlainReporter
    from cctkit.cli.tables import print_json, print_wide
    from cctkit.config.size import parse_size

    size = None if image_size is None else parse_size(image_size)
    tasks = [
        Task(model=name, device=device, batch_size=batch_size, num_classes=num_classes, image_size=size, threads=threads)
        for name in model or MODELS
    ]
    notify = (lambda _: None) if quiet else PlainReporter().notice
    effort = QUICK if quick else FULL
    result = measure(tasks, num_images=num_images, epochs=epochs, effort=effort, notify=notify)
    if as_json:
        print_json(result)
    else:
        print_wide(lambda _: _table(result))


def _table(result: Mapping[str, Any]) -> "Group":
    from rich.console import Group
    from rich.text import Text

    rows, run = result["rows"], result["run"]
    columns = [Column(heading=("model",), cells=[row["model"] for row in rows], left=True)]
    for kind in ("step", "epoch", "inference"):
        speeds = [_speed(row[f"{kind}_images_per_s"]) for row in rows]
        columns.append(Column(heading=(kind, "images/s"), cells=speeds))
    columns.append(Column(heading=("memory", "MB"), cells=[f"{row['peak_bytes'] / 2**20:,.0f}" for row in rows]))
    durations = [
        f"{row['model']}, {run['num_images']:,} images, {run['epochs']} epochs: about {about(row['run_seconds'])}"
        for row in rows
    ]
    notes = [_NOTE, *([_CUDA_NOTE] if result["policy"]["device"] == "cuda" else [])]
    return Group(*map(Text, [_heading(result), ""]), table_of(columns), *map(Text, ["", *durations, "", *notes]))


def _heading(result: Mapping[str, Any]) -> str:
    """The machine, and the precision and attention chosen for it."""
    policy = result["policy"]
    machine = result["gpu"] if policy["device"] == "cuda" else f"{result['cpu']}, {policy['threads']} threads"
    return (
        f"{machine}, torch {result['torch']}, batch {result['rows'][0]['batch_size']}; {policy['precision']}, "
        f"attention {policy['attention']} in training, {policy['attention_in_evaluation']} in inference"
    )


def _speed(images_per_s: float) -> str:
    return f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:,.1f}"


def about(seconds: float) -> str:
    """`40 s`, `12 min`, `4.2 h`, `3 days`: two digits, as the estimate is no more precise."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= (2 * size if unit == "days" else size):
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.0f} s"
