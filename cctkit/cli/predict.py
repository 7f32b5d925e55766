"""`cctkit predict`."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cctkit.cli.options import Json, Quiet, TrainedModel, flag, option
from cctkit.config.size import MAX_PIXELS
from cctkit.errors import UserError
from cctkit.text import counted, safe_text


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="image files, folders, patterns such as 'photos/*.jpg', or - for a list of paths on stdin"
        ),
    ],
    model: TrainedModel = None,
    top: Annotated[int, flag("--top", text="number of classes per image, best first", default=1, at_least=1)] = 1,
    min_confidence: Annotated[
        float,
        flag(
            "--min-confidence",
            text="leave the class empty if its probability (0 to 1) is lower",
            default=0,
            at_least=0,
            at_most=1,
        ),
    ] = 0.0,
    csv: Annotated[Path | None, flag("--csv", text="write a new CSV file instead of the table")] = None,
    heatmap: Annotated[
        Path | None,
        flag("--heatmap", text="draw where the model looks into this new or empty folder (CCT, CVT and TCT)", metavar="DIR"),
    ] = None,
    max_pixels: Annotated[int | None, option("max_pixels", default=f"that of the run, else {MAX_PIXELS}")] = None,
    device: Annotated[str, option("device", default="auto")] = "auto",
    precision: Annotated[str | None, option("precision", default="the precision of the run")] = None,
    threads: Annotated[int | None, option("threads")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Classify images: a table, CSV, or one JSON object per line. Exit code 2 if an image could not be read."""
    from cctkit.prediction.inputs import Inputs

    inputs = Inputs(images, stdin=getattr(sys.stdin, "buffer", None))
    _check_new(csv, heatmap)
    total = inputs.count()  # before torch is imported
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.cli.prediction_rows import CsvRows, JsonRows, Rows, TableRows
    from cctkit.cli.progress import reporting
    from cctkit.engine.signals import StopRequest
    from cctkit.prediction.classifier import Classifier
    from cctkit.prediction.heatmap import HeatmapFolder, check_pools
    from cctkit.prediction.stream import predict_files

    out = sys.stdout  # a live progress bar replaces sys.stdout by its own stream
    shows_rows = out.isatty() and (as_json or csv is None)
    done = failed = unsure = 0
    first_failed = ""
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        reporter, progress = stack.enter_context(reporting(stop, quiet=quiet or shows_rows))
        classifier = Classifier(
            model, device=device, precision=precision, threads=threads, max_pixels=max_pixels, notify=reporter.notice
        )
        maps = None
        if heatmap is not None:
            check_pools(classifier.model, classifier.info)
            maps = HeatmapFolder(heatmap, info=classifier.info, preprocess=classifier.preprocess)
        rows: list[Rows] = []
        if csv is not None:
            rows.append(stack.enter_context(CsvRows(csv, top=min(top, len(classifier.classes)), heatmaps=maps is not None)))
        if as_json:
            rows.append(JsonRows(out, heatmaps=maps is not None))
        elif csv is None:
            rows.append(TableRows(out, classes=classifier.classes))
        progress("predicting", 0, total or 0)
        for batch in predict_files(classifier, inputs, top=top, heatmaps=maps, check=stop.check):
            for each in rows:
                each.write(batch, min_confidence)
            done += len(batch)
            for found in batch:
                first_failed = first_failed or (found.path if found.error else "")
                failed += found.error is not None
                unsure += found.prediction is not None and found.prediction.probability < min_confidence
            progress("predicting", done, total or 0)
        if note := inputs.note():
            reporter.notice(note)
        if unsure:
            reporter.notice(f"{counted(unsure, 'image')} below --min-confidence {min_confidence:g}")
        stop.check()  # before the rows get their name
    if csv is not None and not quiet:
        reporter.notice(f"{counted(done, 'row')} in {safe_text(csv)}")
    if failed:
        raise UserError(
            f"{failed:,} of {counted(done, 'image')} could not be read; the others are done",
            safe_text(first_failed) + (", ..." if failed > 1 else ""),
            "the rows say why",
        )


def _check_new(csv: Path | None, heatmap: Path | None) -> None:
    """Check that nothing would be overwritten.

    Raises: UserError.
    """
    from cctkit.runs.predictions import check_new

    if csv is not None:
        check_new(csv, "--csv")
    if heatmap is not None and (heatmap.is_symlink() or heatmap.exists()):
        if not heatmap.is_dir():
            raise UserError("the output exists, and nothing is overwritten", safe_text(heatmap), "choose another --heatmap")
        if any(heatmap.iterdir()):
            raise UserError(
                "the folder is not empty, and nothing is overwritten", safe_text(heatmap), "choose another --heatmap"
            )
