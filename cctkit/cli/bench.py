"""`cctkit bench`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cctkit.cli import completion
from cctkit.errors import UserError
from cctkit.text import safe_text

if TYPE_CHECKING:
    from rich.console import Group

_DEVICES = ("auto", "cpu", "cuda")
_NOTES = (
    "plain: the same model in float32, NCHW, with torch's dropout, its epochs with a DataLoader and torchvision's transforms "
    "image by image; floor: the matrix products and convolutions alone, each at its fastest.",
    "Of the report's training, attention dropout 0.1 and drop path 0.1 on; medians of turns; peaks by torch's allocator.",
)
_CUDA_NOTE = "On CUDA this command was never run by its authors: take its figures with care."


def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="a model of the catalog; may be repeated (default: six of 32 pixels)",
            show_default=False,
            autocompletion=completion.models,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="images a step", min=1)] = 128,
    image_size: Annotated[
        str | None, typer.Option("--image-size", help="pixels: 32, or HEIGHTxWIDTH", show_default=False)
    ] = None,
    num_classes: Annotated[int, typer.Option("--num-classes", help="classes", min=1)] = 100,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="threads of the CPU", min=1, show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="one short round of each model: a first look")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Measure this machine: images a second of training and inference, beside plain torch and the machine's limit."""
    if device not in _DEVICES:
        raise UserError(f"bench cannot measure '{safe_text(device)}', expected {', '.join(_DEVICES)}", "--device")
    from cctkit.bench.measure import FULL, QUICK, measure
    from cctkit.bench.task import MODELS, Task
    from cctkit.cli.progress import PlainReporter
    from cctkit.cli.tables import print_json, print_wide
    from cctkit.size import parse_size

    size = None if image_size is None else parse_size(image_size)
    tasks = [
        Task(model=name, device=device, batch_size=batch_size, num_classes=num_classes, image_size=size, threads=threads)
        for name in model or MODELS
    ]
    notify = (lambda _: None) if quiet else PlainReporter().notice
    result = measure(tasks, effort=QUICK if quick else FULL, notify=notify)
    if as_json:
        print_json(result)
    else:
        print_wide(lambda _: _tables(result))


# A column: its heading, and how its text is found in a row.
_Column = tuple[str, Callable[[Mapping[str, Any]], str]]


def _speed(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: f"{row[key]:,.0f}" if row[key] >= 100 else f"{row[key]:,.1f}"


def _ratio(over: str, under: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: f"{row[over] / row[under]:.2f}"


def _megabytes(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: f"{row[key] / 2**20:,.0f}"


_TABLES: Mapping[str, Sequence[_Column]] = {
    "a training step, images/s": (
        ("plain", _speed("plain_step")),
        ("ours", _speed("step")),
        ("floor", _speed("floor")),
        ("ours/plain", _ratio("step", "plain_step")),
        ("ours/floor", _ratio("step", "floor")),
    ),
    "whole epochs with their data, images/s": (
        ("plain", _speed("plain_epoch")),
        ("ours", _speed("epoch")),
        ("ours/plain", _ratio("epoch", "plain_epoch")),
        ("epoch/step", _ratio("epoch", "step")),
    ),
    "inference, images/s": (
        ("plain", _speed("plain_inference")),
        ("ours", _speed("inference")),
        ("floor", _speed("inference_floor")),
        ("ours/plain", _ratio("inference", "plain_inference")),
        ("ours/floor", _ratio("inference", "inference_floor")),
    ),
    "peak memory of a training step, MB": (
        ("plain", _megabytes("plain_peak_bytes")),
        ("ours", _megabytes("peak_bytes")),
        ("ours/plain", _ratio("peak_bytes", "plain_peak_bytes")),
    ),
}


def _tables(result: Mapping[str, Any]) -> "Group":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(_heading(result))]
    for title, columns in _TABLES.items():
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("model", no_wrap=True)
        for heading, _ in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in result["rows"]:
            table.add_row(Text(row["model"]), *(text(row) for _, text in columns))
        parts += [Text(f"\n{title}"), table]
    return Group(*parts, Text(), *map(Text, _notes(result)))


def _heading(result: Mapping[str, Any]) -> str:
    """The machine, and what was chosen for it."""
    policy = result["policy"]
    machine = result["gpu"] if result["device"] == "cuda" else f"{result['cpu']}, {policy['threads']} threads"
    return (
        f"{machine}, torch {result['torch']}, batch {result['rows'][0]['batch_size']}; ours in {policy['precision']}, "
        f"attention {policy['attention']} in training, {policy['attention_in_evaluation']} in inference"
    )


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = [*_NOTES, *([_CUDA_NOTE] if result["device"] == "cuda" else [])]
    over = any(row["step"] > row["floor"] or row["inference"] > row["inference_floor"] for row in result["rows"])
    return [*notes, *(["Ours over 1.00 of the floor: then the floor is wrong, take a longer look."] if over else [])]
