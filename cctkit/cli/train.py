"""`cctkit train`."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cctkit.cli import completion
from cctkit.cli.early import check_early
from cctkit.cli.options import config_option, flag, recipe_option, with_settings
from cctkit.config.fields import MACHINE, MAIN, RUN
from cctkit.errors import ElsewhereError, UserError
from cctkit.runs.paths import check_run, is_seeds
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
    time: Annotated[
        str | None, flag("--time", text="how long the run may take, such as 30m or 1h30m, in place of --epochs", panel=MAIN)
    ] = None,
    output: Annotated[
        Path | None, flag("--output", "-o", text="run directory", default="runs/DATASET-MODEL-TIME", panel=MAIN)
    ] = None,
    resume: Annotated[Path | None, flag("--resume", text="continue this run exactly", panel=MAIN)] = None,
    seeds: Annotated[
        int | None,
        flag("--seeds", text="train this many runs, which differ only in the seed, from --seed on", at_least=1, panel=RUN),
    ] = None,
    amp: Annotated[bool | None, flag("--amp/--no-amp", text="--no-amp: same as --precision float32", panel=MACHINE)] = None,
    as_json: Annotated[bool, flag("--json", text="print the result as JSON", panel=RUN)] = False,
    quiet: Annotated[bool, flag("--quiet", "-q", text="no progress", panel=RUN)] = False,
) -> None:
    """Train a model and evaluate it: on CIFAR-100, a named data set, or a folder of images."""
    if amp is not None:
        flags = {"precision": "auto" if amp else "float32", **flags}
    with _errors_of_first_process():
        flags = _with_images(flags, images)
        if resume is not None:
            _check_alone({"--seeds": seeds, "--recipe": recipe, "--config": config, "--time": time, "--output": output})
            if not is_seeds(resume):
                check_run(resume)
        else:
            file_values, recipe = read_config(config, recipe=recipe)
            request = Request(
                flags=flags, file_values=file_values, file_name=str(config or ""), recipe=recipe, output=output, time=time
            )
            check_early(request)

    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.cli.progress import reporting
    from cctkit.engine.distributed import connected, launch_of_job
    from cctkit.engine.signals import StopRequest
    from cctkit.training.run import resume_run, start_run
    from cctkit.training.seeds import resume_seeds, start_seeds

    several = seeds is not None or (resume is not None and is_seeds(resume))
    with (
        StopRequest(launched=launch_of_job() is not None) as stop,
        connected() as context,
        reporting(stop, quiet=quiet, silent=not context.is_rank0) as (reporter, _),
    ):
        named: dict[str, Any] = {"reporter": reporter, "stop": stop, "context": context}
        if several:
            path, result = (
                resume_seeds(resume, flags, **named) if resume is not None else start_seeds(request, seeds or 1, **named)
            )
        elif resume is not None:
            run, result = resume_run(resume, flags, **named)
        else:
            run, result = start_run(request, **named)
    if not context.is_rank0:
        return
    from cctkit.cli.report import render_evaluation, seeds_text
    from cctkit.cli.tables import print_json, print_text, print_wide

    if as_json:
        print_json(result)
    elif several:
        shown = safe_text(path)
        print_text(f"{seeds_text(result)}\nruns: {shown}\nnext: cctkit compare --runs {shown}")
    else:
        print_wide(lambda _: render_evaluation(result))
        shown, weights = safe_text(run.path), safe_text(run.weights)
        print_text(f"run: {shown}\nweights: {weights}\nnext: cctkit eval {shown}")


def _with_images(flags: Mapping[str, Any], images: str | None) -> Mapping[str, Any]:
    """The flags, with the data set given as an argument."""
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
def _errors_of_first_process() -> Iterator[None]:
    """Let only the first process of this machine report a UserError, before the processes of a job are connected."""
    try:
        yield
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        raise ElsewhereError(error.exit_code) from error
