"""Starts and resumes a run: data, run directory, training, result."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cctkit.catalog.recipes import Resolved, describe
from cctkit.data.dataset import split_images
from cctkit.data.overlap import seen_file
from cctkit.engine.device import choose_device
from cctkit.engine.distributed import ALONE, DistContext
from cctkit.engine.environment import differences, environment
from cctkit.engine.parallel import uses_fsdp
from cctkit.engine.signals import StopRequest
from cctkit.errors import DamagedError, DiskError, DivergedError, ElsewhereError, InUseError, StoppedError
from cctkit.models.build import build_model
from cctkit.runs.paths import default_name
from cctkit.runs.rundir import RunDir
from cctkit.text import counted, safe_text
from cctkit.training.budget import with_epochs
from cctkit.training.collective import open_once, policy_for_all
from cctkit.training.job import Job, Session
from cctkit.training.loop import Keep, evaluate, fit
from cctkit.training.prepare import (
    check_against_data,
    first_line,
    initial_model,
    kept_policy,
    load,
    normalised_as,
    policy_of,
)
from cctkit.training.reporter import Reporter, Reporters
from cctkit.training.request import Request
from cctkit.training.result import dataset_info, keep_weights, write_result
from cctkit.training.state import result_tensors
from cctkit.training.stored import check_same_data, read_stored, restarted_run
from cctkit.training.timing import epochs_in


def start_run(
    request: Request, *, reporter: Reporter, stop: StopRequest, context: DistContext = ALONE
) -> tuple[RunDir, dict[str, Any]]:
    """Train as requested in a new run directory; if torchrun has restarted this job, resume the run that it began.

    Raises: UserError and its kinds; StoppedError. If it fails before the first step, no files are left.
    """
    own = restarted_run(request, context)
    if own is not None:
        return resume_run(own, {}, reporter=reporter, stop=stop, context=context)
    session = Session(reporter=reporter, stop=stop, context=context)
    with contextlib.ExitStack() as undo:
        job = _new_job(request, session, undo)
        undo.pop_all()
    with job.run, _resumable(job.run, context):
        return job.run, _train(job, resume=False)


def resume_run(
    path: Path, flags: Mapping[str, Any], *, reporter: Reporter, stop: StopRequest, context: DistContext = ALONE
) -> tuple[RunDir, dict[str, Any]]:
    """Resume the run in `path` exactly where its newest checkpoint is.

    Raises: UserError if `flags` change a setting, or the data is not the same.
    """
    with context.sync_errors():
        run = RunDir.open(path) if context.is_rank0 else RunDir.of_another(path)
    with run, _resumable(run, context):
        job = _resumed_job(run, flags, Session(reporter=reporter, stop=stop, context=context))
        return run, _train(job, resume=True)


def _new_job(request: Request, session: Session, undo: contextlib.ExitStack) -> Job:
    """Prepare a new run up to its first step. `undo` removes its directory again."""
    reporter, context = session.reporter, session.context
    early = request.early
    device = context.device(lambda: choose_device(device=early.device, precision=early.precision))
    output = request.output
    run = claim(lambda: RunDir.create(output), context, undo) if output else None
    dataset, resolved, recipe = load(request, device, session)
    config = resolved.config
    policy = policy_for_all(context, lambda: policy_of(config))
    context = context.on(policy)
    architecture = check_against_data(config, dataset, policy, context)
    run = run or claim(lambda: _run_by_default_name(dataset.name, config.model.model), context, undo)
    length = request.time or counted(config.epochs, "epoch")
    reporter.notice("\n".join([first_line(config, recipe, dataset, policy, context, length), *dataset.report.lines()]))
    reporter.notice(describe(recipe))
    model, report = initial_model(config, architecture, dataset, session)
    job = Job(
        config=config,
        model_config=architecture,
        dataset=normalised_as(dataset, report),
        policy=policy,
        run=run,
        recipe=recipe,
        reporter=reporter,
        stop=session.stop,
        model=model,
        context=context,
    )
    if request.budget is not None:
        epochs, epoch_s = epochs_in(request.budget, job, _keep)
        with context.sync_errors():
            resolved = with_epochs(resolved, epochs, budget=request.budget, recipe_name=recipe, epoch_s=epoch_s)
        job = replace(job, config=resolved.config)
    _write_settings(job, resolved, report)
    return job


def _resumed_job(run: RunDir, flags: Mapping[str, Any], session: Session) -> Job:
    """Prepare to resume the run in `run`, with `flags` that may change."""
    reporter, context = session.reporter, session.context
    stored = read_stored(run, flags, context)
    config, env = stored.config, stored.env
    policy = policy_for_all(context, lambda: kept_policy(config, env["policy"]))
    context = context.on(policy)
    for difference in differences(
        env, policy, world_size=context.world_size, sharded=uses_fsdp(config, context), ema=config.ema is not None
    ):
        reporter.notice(f"{difference}: the result will not be bit-identical to that of an uninterrupted run")
    images = open_once(context, config.data, progress=session.on_data, notify=lambda _: None)
    with context.sync_errors():
        dataset = split_images(images, config.data, split_rule=stored.split_rule)
    architecture = check_same_data(dataset, stored, run, policy, context)
    reporter.notice(f"resuming {safe_text(run.path)}")
    if dataset.unverified:
        reporter.notice(dataset.unverified)
    if stored.has_checkpoint:
        model = build_model(architecture, seed=config.seed)
    else:  # the run was killed before its first checkpoint
        model, _ = initial_model(config, architecture, dataset, session)
    return Job(
        config=config,
        model_config=architecture,
        dataset=normalised_as(dataset, env["init"]),
        policy=policy,
        run=run,
        recipe=stored.recipe,
        reporter=reporter,
        stop=session.stop,
        model=model,
        context=context,
    )


def claim(create: Callable[[], RunDir], context: DistContext, undo: contextlib.ExitStack) -> RunDir:
    """Create the run directory on rank 0, to be removed by `undo`; other ranks only know its path."""
    run = None
    with context.sync_errors():
        if context.is_rank0:
            run = create()
            undo.callback(run.discard)
    path = context.broadcast_object(run.path if run else Path())
    return run or RunDir.of_another(path)


def _run_by_default_name(dataset: str, model: str) -> RunDir:
    """Create a directory with the default name, or the next one if another process takes that first."""
    while True:
        with contextlib.suppress(InUseError):
            return RunDir.create(default_name(dataset, model, datetime.now()))


def _write_settings(job: Job, resolved: Resolved, report: dict[str, Any] | None) -> None:
    """Write `seen.safetensors`, `env.json` and `config.json`; the last one makes the directory a run.

    report: what was loaded from `--init`.

    Raises: UserError; StoppedError if the user has stopped the run.
    """
    with job.context.sync_errors():
        if job.context.is_rank0:
            run, dataset = job.run, job.dataset
            if (seen := seen_file(dataset.train)) is not None:
                run.write_file(run.seen, seen)
            env = environment(job.policy, world_size=job.context.world_size, sharded=uses_fsdp(job.config, job.context))
            env |= {"dataset": dataset_info(dataset) | {"skipped": list(dataset.skipped)}, "init": report}
            run.write_json(run.env, env)
            values = {"values": job.config.flat(), "origins": dict(resolved.origins), "recipe": job.recipe}
            run.write_json(run.config, values)
        job.stop.check()


@contextlib.contextmanager
def _resumable(run: RunDir, context: DistContext) -> Iterator[None]:
    """Add the command that resumes the run to errors that allow it. Only rank 0 reports what all ranks raise."""
    again = f"cctkit train --resume {safe_text(run.path)}"
    try:
        yield
    except (StoppedError, DivergedError) as error:
        if not context.is_rank0:
            raise ElsewhereError(error.exit_code) from error
        if isinstance(error, DivergedError):
            raise
        stop = error
        raise StoppedError(stop.signal_number, f"stopped and saved; resume with: {again}") from stop
    except DiskError as error:
        raise DiskError(error.what, error.where, f"free some space, then resume with: {again}") from error
    except DamagedError as error:
        remedy = "the file was removed; to pack again and resume" if error.dropped else f"{error.remedy}, then resume with"
        raise DamagedError(error.what, error.where, f"{remedy}: {again}", dropped=error.dropped) from error


def _keep(job: Job) -> Keep:
    return lambda state, history: keep_weights(job, state=state, history=history)


def _train(job: Job, *, resume: bool) -> dict[str, Any]:
    """Train to the end, evaluate on the test images, and write the result."""
    job = tracked(job.held())
    state, history = fit(job, resume=resume, keep=_keep(job))
    test = job.dataset.test
    assert test is not None
    if job.dataset.val is not None and history.kept_temperature is None:
        job.reporter.notice(
            "no temperature for the probabilities: on the validation images all predictions are right, or no better than chance"
        )
    evaluation = evaluate(job, state.result, test, "test")
    weights = result_tensors(state)
    result = job.context.run_on_rank0(lambda: write_result(job, state, history, evaluation, weights))
    with job.context.sync_errors():
        job.reporter.finished(result)
    job.context.check(job.stop)
    return result


def tracked(job: Job) -> Job:
    """The job, which rank 0 also reports to what `--track` names."""
    if job.config.track == "none" or not job.context.is_rank0:
        return job
    from cctkit.training.tensorboard import TensorBoardReporter  # of an extra

    job.reporter.notice(f"to follow the run: tensorboard --logdir {safe_text(job.run.path)}")
    return replace(job, reporter=Reporters(job.reporter, TensorBoardReporter()))
