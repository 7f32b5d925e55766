"""`cctkit train`."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cctkit.cli import completion
from cctkit.cli.early import check_early
from cctkit.cli.options import config_option, recipe_option, with_settings
from cctkit.config.settings import MACHINE, MAIN, RUN
from cctkit.errors import ElsewhereError, UserError
from cctkit.runs.rundir import check_run
from cctkit.runs.runfiles import read_config
from cctkit.text import safe_text
from cctkit.training.request import Request


@with_settings
def train(
    flags: Mapping[str, Any],
    images: Annotated[
        str | None,
        typer.Argument(metavar="DATASET", help="same as --dataset", show_default=False, autocompletion=completion.datasets),
    ] = None,
    recipe: Annotated[str | None, recipe_option(panel=MAIN)] = None,
    config: Annotated[Path | None, config_option(panel=MAIN)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="run directory (default: runs/DATASET-MODEL-TIME)", rich_help_panel=MAIN, show_default=False
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="continue this run exactly", rich_help_panel=MAIN, show_default=False)
    ] = None,
    amp: Annotated[
        bool | None,
        typer.Option(
            "--amp/--no-amp", help="--no-amp: same as --precision float32", rich_help_panel=MACHINE, show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON", rich_help_panel=RUN)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress", rich_help_panel=RUN)] = False,
) -> None:
    """Train a model and evaluate it: on CIFAR-100, a named data set, or a folder of images."""
    if amp is not None:
        flags = {"precision": "auto" if amp else "float32", **flags}
    with first_of_machine_tells():
        flags = _with_images(flags, images)
        if resume is not None:
            _check_alone({"--recipe": recipe, "--config": config, "--output": output})
            check_run(resume)
        else:
            file_values, recipe = read_config(config, recipe=recipe)
            request = Request(flags=flags, file_values=file_values, file_name=str(config or ""), recipe=recipe, output=output)
            check_early(request)

    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.cli.progress import LiveReporter, PlainReporter
    from cctkit.engine.distributed import connected, launch_of_job
    from cctkit.engine.signals import StopRequest
    from cctkit.training.run import resume_run, start_run

    with StopRequest(launched=launch_of_job() is not None) as stop, connected() as ranks:
        reporter = LiveReporter() if ranks.first and sys.stderr.isatty() and not quiet else PlainReporter(quiet=quiet)
        if not ranks.first:
            reporter = PlainReporter(quiet=True, stream=io.StringIO())

        try:
            if resume is not None:
                run, result = resume_run(resume, flags, reporter=reporter, stop=stop, ranks=ranks)
            else:
                run, result = start_run(request, reporter=reporter, stop=stop, ranks=ranks)
        finally:
            reporter.close()
    if not ranks.first:
        return
    from cctkit.cli.report import render_evaluation
    from cctkit.cli.tables import print_json, print_text, print_wide

    if as_json:
        print_json(result)
        return
    print_wide(lambda _: render_evaluation(result))
    path, weights = safe_text(run.path), safe_text(run.weights)
    print_text(f"run: {path}\nweights: {weights}\nnext: cctkit eval {path}")


def _with_images(flags: Mapping[str, Any], images: str | None) -> Mapping[str, Any]:
    """The flags, with the data set that was given as an argument."""
    if images is None:
        return flags
    if flags.get("dataset", images) != images:
        given = f"{safe_text(images)}, and --dataset {safe_text(flags['dataset'])}"
        raise UserError(f"two data sets are given: {given}", "command line", "give one")
    return {**flags, "dataset": images}


def _check_alone(others: Mapping[str, object]) -> None:
    for name, value in others.items():
        if value is not None:
            raise UserError(f"{name} cannot be given with --resume: a resumed run keeps its settings", "command line")


@contextlib.contextmanager
def first_of_machine_tells() -> Iterator[None]:
    """Report an error of the command line or its files by one process only, before the processes of a job are connected."""
    try:
        yield
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        raise ElsewhereError(error.exit_code) from error
