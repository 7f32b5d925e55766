"""`cctkit eval`."""

from pathlib import Path
from typing import Annotated

import typer

from cctkit.cli.options import Json, Quiet, flag, option
from cctkit.config.size import MAX_PIXELS


def evaluate(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS",
            help="a run directory, a weights file or an ONNX file (default: the newest run)",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None, option("dataset", text="a folder of images or a name", default="the data set of the run")
    ] = None,
    data_dir: Annotated[str | None, option("data_dir")] = None,
    split: Annotated[
        str | None, flag("--split", text="test, val, train or all", default="test, or all if --dataset has no test split")
    ] = None,
    skip_bad: Annotated[bool, option("skip_bad", default="off")] = False,
    max_pixels: Annotated[int, option("max_pixels", default=MAX_PIXELS)] = MAX_PIXELS,
    include_seen: Annotated[
        bool, flag("--include-seen", text="with --dataset: keep the images that the run was trained on")
    ] = False,
    device: Annotated[str, option("device", default="auto")] = "auto",
    precision: Annotated[str | None, option("precision", default="the precision of the run")] = None,
    threads: Annotated[int | None, option("threads")] = None,
    save_predictions: Annotated[
        Path | None,
        flag("--save-predictions", text="write image ids, labels and logits to this new file (CSV if it ends in .csv)"),
    ] = None,
    csv: Annotated[
        Path | None, flag("--csv", text="write precision, recall, F1 and number of images of each class to this new CSV file")
    ] = None,
    confusion: Annotated[
        list[Path] | None,
        flag(
            "--confusion",
            text="write the confusion matrix to this new file: .png, .svg, .pdf, or .csv for the counts; can be repeated",
        ),
    ] = None,
    min_confidence: Annotated[
        float | None,
        flag(
            "--min-confidence",
            text="also report the images whose class has at least this probability (0 to 1)",
            at_least=0,
            at_most=1,
        ),
    ] = None,
    download: Annotated[bool, option("download", default="on")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run, weights file or ONNX file: accuracy and F1 with intervals, loss, calibration, confused classes."""
    from cctkit.config.settings import DataConfig
    from cctkit.data.sources.places import check_place

    data = DataConfig(dataset=dataset, data_dir=data_dir, download=download, skip_bad=skip_bad, max_pixels=max_pixels)
    check_place(data)  # before torch is imported
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.cli.progress import reporting
    from cctkit.cli.report import render_evaluation
    from cctkit.cli.tables import print_json, print_wide
    from cctkit.engine.signals import StopRequest
    from cctkit.evaluation.source import EvalConfig, evaluate_source

    config = EvalConfig(
        data=data,
        split=split,
        device=device,
        precision=precision,
        threads=threads,
        save_predictions=save_predictions,
        csv=csv,
        confusion=tuple(confusion or ()),
        include_seen=include_seen,
        min_confidence=min_confidence,
    )
    with StopRequest() as stop:
        with reporting(stop, quiet=quiet) as (reporter, data_progress):
            result = evaluate_source(source, config, notify=reporter.notice, progress=data_progress)
        stop.check()  # a signal may have come while the predictions were written
    if as_json:
        print_json(result)
    else:
        print_wide(lambda _: render_evaluation(result))
