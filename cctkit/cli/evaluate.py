"""`cctkit eval`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cctkit.cli import completion
from cctkit.config.size import MAX_PIXELS


def evaluate(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS", help="a run directory or a weights file; default: the newest run", show_default=False
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="other images than the model's: a folder or a name",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", "--data-path", help="where named data sets are kept", show_default=False)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="test, val, train or all; default: test, all of other images without a test part",
            show_default=False,
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="leave broken images out, as where the run was trained so")
    ] = False,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", help="pixels of the largest image that is read", min=1)
    ] = MAX_PIXELS,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="with other images: keep those on which the run was trained")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="auto, float32, bf16 or fp16; default: as the run was trained", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="threads of the CPU", min=1, show_default=False)] = None,
    save_predictions: Annotated[
        Path | None,
        typer.Option(
            "--save-predictions",
            help="write image ids, labels and logits here: a new file, as CSV where it ends in .csv",
            show_default=False,
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download/--no-download", help="download a named data set that is not there")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Evaluate a run or a weights file: accuracy with its interval, loss, calibration, what is confused with what."""
    from cctkit.config.settings import DataConfig
    from cctkit.data.sources.places import check_place

    data = DataConfig(dataset=dataset, data_dir=data_dir, download=download, skip_bad=skip_bad, max_pixels=max_pixels)
    check_place(data)  # before torch is imported
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.cli.progress import LiveReporter, PlainReporter
    from cctkit.cli.report import render_evaluation
    from cctkit.cli.tables import print_json, print_wide
    from cctkit.engine.signals import StopRequest
    from cctkit.evaluation.source import EvalConfig, evaluate_source

    with StopRequest() as stop:
        reporter = LiveReporter() if sys.stderr.isatty() and not quiet else PlainReporter(quiet=quiet)

        def on_progress(what: str, done: int, total: int) -> None:
            stop.check()
            reporter.data(what, done, total)

        config = EvalConfig(
            data=data,
            split=split,
            device=device,
            precision=precision,
            threads=threads,
            save_predictions=save_predictions,
            include_seen=include_seen,
        )
        try:
            result = evaluate_source(source, config, notify=reporter.notice, progress=on_progress)
        finally:
            reporter.close()
        stop.check()  # asked to while the predictions were written
    if as_json:
        print_json(result)
    else:
        print_wide(lambda _: render_evaluation(result))
