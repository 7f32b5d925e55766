"""`cctkit check`."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cctkit.cli import completion
from cctkit.cli.options import Json, Quiet, flag, option
from cctkit.config.settings import DataConfig
from cctkit.config.size import MAX_PIXELS
from cctkit.errors import UserError
from cctkit.text import safe_text

if TYPE_CHECKING:
    from cctkit.bench.suggest import Suggestion
    from cctkit.data.check.check import DataCheck


def check(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="a folder of images, a packed file, or the name of a data set",
            autocompletion=completion.datasets,
        ),
    ],
    image_size: Annotated[str | None, option("image_size", default=32)] = None,
    resize_mode: Annotated[str, option("resize_mode", default="crop")] = "crop",
    val_fraction: Annotated[float, option("val_fraction", default=0)] = 0.0,
    split_seed: Annotated[int, option("split_seed", default=0)] = 0,
    group_by: Annotated[str | None, option("group_by")] = None,
    skip_bad: Annotated[bool, option("skip_bad", default="off")] = False,
    max_pixels: Annotated[int, option("max_pixels", default=MAX_PIXELS)] = MAX_PIXELS,
    data_dir: Annotated[str | None, option("data_dir")] = None,
    download: Annotated[bool, option("download", default="on")] = True,
    suggest: Annotated[
        bool, flag("--suggest/--no-suggest", text="time a few training steps and suggest a model", default="on")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for what would spoil a result: copies across splits, broken images, misspelled classes, and more.

    Nothing is trained. The exit code is 2 if a result would be spoilt, else 0.
    """
    from cctkit.config.settings import TrainConfig

    config = TrainConfig.from_flat(
        {
            "dataset": dataset,
            "image_size": image_size,
            "resize_mode": resize_mode,
            "val_fraction": val_fraction,
            "split_seed": split_seed,
            "group_by": group_by,
            "skip_bad": skip_bad,
            "max_pixels": max_pixels,
            "data_dir": data_dir,
            "download": download,
        }
    ).data
    from cctkit.data.sources.places import check_place

    check_place(config)  # before torch is imported
    from cctkit.cli.progress import reporting
    from cctkit.cli.tables import print_json, print_text
    from cctkit.data.check.check import check_dataset
    from cctkit.engine.signals import StopRequest

    with StopRequest() as stop, reporting(stop, quiet=quiet) as (reporter, data_progress):
        found = check_dataset(config, progress=data_progress, notify=reporter.notice)
        stop.check()
        timed = _timed(found, config, (lambda _: None) if quiet else reporter.notice) if suggest else []
        stop.check()  # a signal may have come while a model was timed
    if as_json:
        print_json(_contract(found, timed))
    else:
        print_text("\n".join(_lines(found, timed)))
    if found.would_spoil:
        raise typer.Exit(UserError.exit_code)


def _timed(found: "DataCheck", config: DataConfig, notify: Callable[[str], None]) -> "list[Suggestion]":
    """What was timed for these images, the suggestion last."""
    from cctkit.bench.suggest import sizes_for, suggest_training
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write of GPUs that it does not find
    notify("timing a few steps of training")
    report = found.report
    stored = report.store.image_size
    numbers = found.num_images

    def sizes(device: str) -> "list[tuple[int, int]]":
        if config.image_size is not None or found.median_side is None:
            return [config.image_size or stored]
        return sizes_for(found.median_side, device)

    return suggest_training(
        sizes,
        name=report.name,
        num_classes=len(report.store.class_names),
        num_train=numbers.get("train", numbers.get("all", 0)),
        num_test=numbers.get("test", 0),
    )


def _contract(found: "DataCheck", timed: "Sequence[Suggestion]") -> dict[str, Any]:
    """What `--json` prints; see docs/reference/files.md."""
    report = found.report
    return {
        "schema_version": 1,
        "dataset": safe_text(report.place or report.name),
        "fingerprint": report.store.fingerprint,
        "split_made": report.split_made,
        "num_images": found.num_images,
        "classes": [
            {"class": name, **{part: numbers[i] for part, numbers in report.parts.items()}}
            for i, name in enumerate(report.store.class_names)
        ],
        "would_spoil": found.would_spoil,
        "findings": [finding.as_json() for finding in found.findings],
        "suggestion": timed[-1].as_json() if timed else None,
        "timed": [each.as_json() for each in timed],
    }


def _lines(found: "DataCheck", timed: "Sequence[Suggestion]") -> list[str]:
    from cctkit.data.check.check import by_severity

    lines = found.report.summary()
    for finding in found.findings:
        lines += ["", *finding.lines()]
    lines += ["", "found: " + (", ".join(by_severity(found.findings)) or "nothing")]
    if timed:
        lines += [f"suggested: {timed[-1].flags}"]
        lines += [f"  {_duration(each)}" for each in reversed(timed)]
    return lines


def _duration(timed: "Suggestion") -> str:
    from cctkit.cli.bench import about

    height, width = timed.image_size
    return (
        f"{height}x{width}: {timed.epochs} epochs take about {about(timed.seconds)} here "
        f"({timed.images_per_s:,.0f} images/s on {timed.device}, from a few timed steps)"
    )
