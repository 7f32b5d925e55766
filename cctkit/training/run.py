"""One run from its settings to its result: the data, the directory, training, and what it leaves behind."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cctkit.catalog.models import model_config
from cctkit.catalog.pretrained import check_pretrained, is_pretrained
from cctkit.catalog.recipes import Resolved, describe
from cctkit.config.settings import TrainConfig, check_settings, settings
from cctkit.data.overlap import seen_file
from cctkit.data.splits import Dataset
from cctkit.data.splitting import rule_of
from cctkit.engine.device import DevicePolicy, choose_device
from cctkit.engine.distributed import ALONE, DistContext, launch_of_job
from cctkit.engine.environment import differences, environment, read_environment
from cctkit.engine.parallel import uses_fsdp
from cctkit.engine.signals import StopRequest
from cctkit.errors import DamagedError, DiskError, DivergedError, ElsewhereError, InUseError, StoppedError, UserError
from cctkit.runs.rundir import DEFAULT_ROOT, RunDir, RunPaths, default_name
from cctkit.runs.runfiles import read_object, read_settings
from cctkit.text import safe_text
from cctkit.training.collective import load_once, policy_for_all
from cctkit.training.loop import Job, Reporter, evaluate, fit
from cctkit.training.prepare import (
    DataProgress,
    Request,
    check_against_data,
    check_ranks,
    first_line,
    initialised,
    kept_policy,
    load,
    normalised_as,
    policy_of,
)
from cctkit.training.result import dataset_info, keep_weights, write_result
from cctkit.training.state import result_tensors


def start_run(
    request: Request, *, reporter: Reporter, stop: StopRequest, data_progress: DataProgress, ranks: DistContext = ALONE
) -> tuple[RunDir, dict[str, Any]]:
    """Train as asked, in a directory of its own; started anew by torchrun, go on with that.

    Raises: UserError and its kinds; StoppedError. Before the first step nothing is left behind.
    """
    own = ranks.run_on_rank0(lambda: _own_run(request)) if ranks.restarts else None
    if own is not None:
        return resume_run(Path(own), {}, reporter=reporter, stop=stop, data_progress=data_progress, ranks=ranks)
    with ranks.sync_errors():
        early = request.resolve(request.recipe)  # unknown names and values out of range, before any work
        if is_pretrained(early.config.init):
            check_pretrained(early.config.init, model_config(early.config.model))
    device = ranks.device(lambda: choose_device(device=early.config.device, precision=early.config.precision))
    run: RunDir | None = None
    try:
        with ranks.sync_errors():
            run = RunDir.create(request.output) if request.output and ranks.first else None
        dataset, resolved, recipe_name = load(request, early, device, reporter, data_progress, ranks)
        config = resolved.config
        policy = policy_for_all(ranks, lambda: policy_of(config))  # of all settings: a recipe's dropout decides too
        ranks = ranks.on(policy)
        with ranks.sync_errors():
            check_against_data(config, dataset, policy, ranks)
            architecture = model_config(config.model, num_classes=len(dataset.class_names), image_size=dataset.image_size)
            if ranks.first:
                run = run or _run_by_default_name(dataset.name, config.model.model)
            reporter.notice("\n".join([first_line(config, recipe_name, dataset, policy, ranks), *dataset.report.lines()]))
            reporter.notice(describe(recipe_name))
        model, report = ranks.first_of_machine_first(
            lambda: initialised(config, architecture, dataset, reporter, data_progress)
        )
        with ranks.sync_errors():
            dataset = normalised_as(dataset, report)
            if run is not None:
                _write_settings(run, resolved, recipe_name, dataset, policy, report, ranks)
            stop.check()
        path = ranks.run_on_rank0(lambda: run and str(run.path))
        run = run or RunDir.of_another(Path(str(path)))
        job = Job(
            config=config,
            model_config=architecture,
            dataset=dataset,
            policy=policy,
            run=run,
            reporter=reporter,
            stop=stop,
            model=model,
            ranks=ranks,
        )
    except BaseException:
        if run is not None:
            run.discard()
        raise
    with run, _resumable(run, ranks):
        return run, _train(job, recipe_name, resume=False)


def resume_run(
    path: Path,
    flags: Mapping[str, Any],
    *,
    reporter: Reporter,
    stop: StopRequest,
    data_progress: DataProgress,
    ranks: DistContext = ALONE,
) -> tuple[RunDir, dict[str, Any]]:
    """Go on with the run in `path` exactly where its newest checkpoint is.

    Raises: UserError where `flags` change a setting, or the data is not the same.
    """
    with ranks.sync_errors():
        run = RunDir.open(path) if ranks.first else RunDir.of_another(path)
    with run, _resumable(run, ranks):
        values, recipe_name, env, began = ranks.run_on_rank0(lambda: _stored(run))
        with ranks.sync_errors():
            rule = rule_of(env["dataset"], safe_text(run.env))
            config = _resumed(TrainConfig.from_flat(values, where=str(run.config)), flags, path)
        policy = policy_for_all(ranks, lambda: kept_policy(config, env["policy"]))
        ranks = ranks.on(policy)
        others = differences(env, policy, ranks=ranks.size, sharded=uses_fsdp(config, ranks), ema=config.ema is not None)
        for difference in others:
            reporter.notice(f"{difference}: the result will not be bit-equal to an unbroken run's")
        dataset = load_once(
            ranks,
            config.data,
            progress=data_progress,
            notify=lambda _: None,
            split_rule=rule,
        )
        with ranks.sync_errors():
            if dataset.fingerprint != env["dataset"]["fingerprint"]:
                raise UserError(
                    f"the images of {dataset.name} are not those that the run began with", str(path), "restore them"
                )
            check_ranks(config, policy, ranks)
            architecture = model_config(config.model, num_classes=len(dataset.class_names), image_size=dataset.image_size)
            reporter.notice(f"resuming {safe_text(path)}")
            if dataset.unverified:
                reporter.notice(dataset.unverified)
        model = None
        if env["init"] and not began:  # killed before its weights were in a checkpoint
            model, _ = ranks.first_of_machine_first(lambda: initialised(config, architecture, dataset, reporter, data_progress))
        job = Job(
            config=config,
            model_config=architecture,
            dataset=normalised_as(dataset, env["init"]),
            policy=policy,
            run=run,
            reporter=reporter,
            stop=stop,
            model=model,
            ranks=ranks,
        )
        return run, _train(job, recipe_name, resume=True)


def _own_run(request: Request) -> str | None:
    """Where an earlier start of this job, which torchrun has ended, has begun its run."""
    places = [request.output] if request.output else sorted(DEFAULT_ROOT.glob("*"), reverse=True)
    for place in places:
        with contextlib.suppress(UserError):
            if RunPaths(place).config.is_file() and read_object(RunPaths(place).env).get("launch") == launch_of_job():
                return str(place)
    return None


def _stored(run: RunDir) -> tuple[dict[str, Any], str | None, dict[str, Any], bool]:
    """What is kept of a run: its settings, its recipe, its environment, and whether it has saved a checkpoint."""
    config, recipe_name = read_settings(run.config)
    return config.flat(), recipe_name, read_environment(run.env), any(run.checkpoints.glob("step-*"))


@contextlib.contextmanager
def _resumable(run: RunDir, ranks: DistContext) -> Iterator[None]:
    """Where a run that has begun is stopped, the disk is full or data damaged: say how to go on. What all raise, one tells."""
    again = f"cctkit train --resume {safe_text(run.path)}"
    try:
        yield
    except (StoppedError, DivergedError) as error:
        if not ranks.first:
            raise ElsewhereError(error.exit_code) from error
        if isinstance(error, DivergedError):
            raise
        stop = error
        raise StoppedError(stop.signal_number, f"stopped; all is saved, go on with: {again}") from stop
    except DiskError as error:
        raise DiskError(error.what, error.where, f"free some space, then {again}") from error
    except DamagedError as error:
        remedy = "the file was removed; this packs the images anew" if error.dropped else f"{error.remedy}, then go on"
        raise DamagedError(error.what, error.where, f"{remedy}: {again}", dropped=error.dropped) from error


def _run_by_default_name(dataset: str, model: str) -> RunDir:
    """A directory by the default name; by the next one where another start takes that first."""
    while True:
        with contextlib.suppress(InUseError):
            return RunDir.create(default_name(dataset, model, datetime.now()))


def _write_settings(
    run: RunDir,
    resolved: Resolved,
    recipe_name: str,
    dataset: Dataset,
    policy: DevicePolicy,
    report: dict[str, Any] | None,
    ranks: DistContext,
) -> None:
    """`seen.safetensors`, `env.json` and `config.json`, before the first step; with the last the directory is a run."""
    values = resolved.config.flat()
    if (seen := seen_file(dataset.train)) is not None:
        run.write_file(run.seen, seen)
    run.write_json(
        run.env,
        environment(policy, ranks=ranks.size, sharded=uses_fsdp(resolved.config, ranks))
        | {"dataset": dataset_info(dataset) | {"skipped": list(dataset.skipped)}, "init": report},
    )
    run.write_json(run.config, {"values": values, "origins": dict(resolved.origins), "recipe": recipe_name})


def _resumed(stored: TrainConfig, flags: Mapping[str, Any], path: Path) -> TrainConfig:
    """The stored settings with those flags that may change.

    Raises: UserError naming the settings that flags would change.
    """
    before = stored.flat()
    may_change = {item.name for item, _ in settings() if item.metadata["may_change"]}
    changed = [
        f"{key} is {before[key]}, asked for {asked}"
        for key, asked in check_settings(flags).items()
        if key not in may_change and asked != before[key]
    ]
    if changed:
        new_run = f"cctkit train -c {safe_text(RunPaths(path).config)} --init {safe_text(path)}"
        longer = flags.get("epochs", 0) > stored.epochs and RunPaths(path).weights.exists()
        raise UserError(
            f"a resumed run keeps its settings: {'; '.join(changed)}",
            safe_text(path),
            f"a new run from its weights: {new_run} --epochs {flags['epochs']}"
            if longer
            else "leave the flag out, or start a new run",
        )
    return stored.replace(**flags)


def _train(job: Job, recipe_name: str | None, *, resume: bool) -> dict[str, Any]:
    """Train to the end, evaluate, and write what is left of it."""
    job = replace(job, dataset=job.dataset.for_training(job.config.augment.crop))
    job = replace(job, dataset=job.policy.hold(job.dataset, workers=job.workers))
    state, history = fit(
        job, resume=resume, keep=lambda state, history: keep_weights(job, recipe_name, state=state, history=history)
    )
    test = job.dataset.test
    assert test is not None
    evaluation = evaluate(job, state.result, test, "test")
    weights = result_tensors(state)
    result = job.ranks.run_on_rank0(lambda: write_result(job, recipe_name, state, history, evaluation, weights))
    job.ranks.check(job.stop)
    return result
