"""One run from its settings to its result: the data, the directory, training, and what it leaves behind."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from cctkit.catalog.models import model_config
from cctkit.catalog.recipes import Resolved, default_recipe, resolve
from cctkit.config import ModelConfig, TrainConfig, settings
from cctkit.data.dataset import DEFAULT_SIZE, Dataset
from cctkit.errors import DiskError, DivergedError, ElsewhereError, InUseError, StoppedError, UserError
from cctkit.models.build import build_model
from cctkit.rundir import DEFAULT_ROOT, RunDir, RunPaths, default_name
from cctkit.runfiles import read_object, read_settings
from cctkit.text import safe_text
from cctkit.training.device import DevicePolicy, choose_policy
from cctkit.training.distributed import ALONE, Ranks, launch_of_job, load_once
from cctkit.training.environment import differences, environment, read_environment
from cctkit.training.loop import Job, Reporter, evaluate, fit, result_tensors
from cctkit.training.result import dataset_info, write_result
from cctkit.training.stopping import StopRequest

DataProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asks for: settings from the command line and a config file, and where the run goes."""

    flags: Mapping[str, Any]
    file_values: Mapping[str, Any]
    file_name: str = ""
    recipe: str | None = None
    output: Path | None = None


def start_run(
    request: Request, *, reporter: Reporter, stop: StopRequest, data_progress: DataProgress, ranks: Ranks = ALONE
) -> tuple[RunDir, dict[str, Any]]:
    """Train as asked, in a directory of its own; started anew by torchrun, go on with that.

    Raises: UserError and its kinds; StoppedError. Before the first step nothing is left behind.
    """
    own = ranks.by_first(lambda: _own_run(request)) if ranks.restarts else None
    if own is not None:
        return resume_run(Path(own), {}, reporter=reporter, stop=stop, data_progress=data_progress, ranks=ranks)
    with ranks.agreeing():
        early = _resolve(request, request.recipe)  # unknown names and values out of range, before any work
    policy = ranks.policy(lambda: _policy(early.config))
    ranks = ranks.on(policy)
    run: RunDir | None = None
    try:
        with ranks.agreeing():
            run = RunDir.create(request.output) if request.output and ranks.first else None
        dataset, resolved, recipe_name = _load(request, early, policy, reporter, data_progress, ranks)
        config = resolved.config
        with ranks.agreeing():
            _check_against_data(config, dataset, policy, ranks)
            architecture = model_config(config.model, num_classes=len(dataset.class_names), image_size=dataset.image_size)
            if ranks.first:
                run = run or _run_by_default_name(dataset.name, config.model.model)
            reporter.notice(_first_line(config, recipe_name, dataset, policy, ranks))
        model, report = ranks.first_of_machine_first(
            lambda: _initialised(config, architecture, dataset, reporter, data_progress)
        )
        with ranks.agreeing():
            dataset = _normalised_as(dataset, report)
            if run is not None:
                _write_settings(run, resolved, recipe_name, dataset, policy, report, ranks)
            stop.check()
        path = ranks.by_first(lambda: run and str(run.path))
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
    ranks: Ranks = ALONE,
) -> tuple[RunDir, dict[str, Any]]:
    """Go on with the run in `path` exactly where its newest checkpoint is.

    Raises: UserError where `flags` change a setting, or the data is not the same.
    """
    with ranks.agreeing():
        run = RunDir.open(path) if ranks.first else RunDir.of_another(path)
    with run, _resumable(run, ranks):
        values, recipe_name, env, began = ranks.by_first(lambda: _stored(run))
        with ranks.agreeing():
            config = _resumed(TrainConfig.from_flat(values, where=str(run.config)), flags, path)
        policy = ranks.policy(lambda: _kept_policy(config, env["policy"]))
        ranks = ranks.on(policy)
        sharded = config.shard and ranks.size > 1
        for difference in differences(env, policy, ranks=ranks.size, sharded=sharded):
            reporter.notice(f"{difference}: the result will not be bit-equal to an unbroken run's")
        dataset = load_once(ranks, config.data, progress=data_progress, notify=lambda _: None)
        with ranks.agreeing():
            if dataset.fingerprint != env["dataset"]["fingerprint"]:
                raise UserError(
                    f"the images of {dataset.name} are not those that the run began with", str(path), "restore them"
                )
            _check_ranks(config, policy, ranks)
            architecture = model_config(config.model, num_classes=len(dataset.class_names), image_size=dataset.image_size)
            reporter.notice(f"resuming {safe_text(path)}")
        model = None
        if env["init"] and not began:  # killed before its weights were in a checkpoint
            model, _ = ranks.first_of_machine_first(
                lambda: _initialised(config, architecture, dataset, reporter, data_progress)
            )
        job = Job(
            config=config,
            model_config=architecture,
            dataset=_normalised_as(dataset, env["init"]),
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


def _kept_policy(config: TrainConfig, kept: Mapping[str, Any]) -> DevicePolicy:
    policy = _policy(config.replace(precision=kept["precision"]))
    if policy.device != kept["device"]:
        return policy
    return replace(policy, attention=kept["attention"], attention_in_evaluation=kept["attention_in_evaluation"])


@contextlib.contextmanager
def _resumable(run: RunDir, ranks: Ranks) -> Iterator[None]:
    """Where a run that has begun is stopped, or the disk is full: say how to go on. What all ranks raise, one tells."""
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


def _run_by_default_name(dataset: str, model: str) -> RunDir:
    """A directory by the default name; by the next one where another start takes that first."""
    while True:
        with contextlib.suppress(InUseError):
            return RunDir.create(default_name(dataset, model, datetime.now()))


def _resolve(request: Request, recipe_name: str | None) -> Resolved:
    return resolve(recipe_name=recipe_name, file_values=request.file_values, file_name=request.file_name, flags=request.flags)


def _policy(config: TrainConfig) -> DevicePolicy:
    return choose_policy(
        device=config.device,
        precision=config.precision,
        threads=config.threads,
        compile=config.compile,
        dropout=config.model.attention_dropout > 0,
    )


def _load(
    request: Request,
    early: Resolved,
    policy: DevicePolicy,
    reporter: Reporter,
    data_progress: DataProgress,
    ranks: Ranks,
) -> tuple[Dataset, Resolved, str]:
    """The data set, and with it the recipe where none is named; a recipe may ask for another image size."""
    data = early.config.data
    named_size = model_config(early.config.model).image_size
    if data.image_size is None and named_size != DEFAULT_SIZE and not Path(data.dataset or "").is_file():
        data = replace(data, image_size=named_size)  # a model whose name has another size
    dataset = load_once(ranks, data, progress=data_progress, notify=reporter.notice)
    name = request.recipe or default_recipe(dataset.name, policy.device)
    with ranks.agreeing():
        resolved = _resolve(request, name)
    place = dataset.source or dataset.name
    config = resolved.config.replace(dataset=place, image_size=resolved.config.data.image_size or data.image_size)
    if replace(config.data, dataset=None) != replace(data, dataset=None):
        dataset = load_once(ranks, config.data, progress=data_progress, notify=reporter.notice)
    if dataset.skipped:
        reporter.notice(f"left out {len(dataset.skipped)} broken images:\n  " + "\n  ".join(dataset.skipped))
    return dataset, Resolved(config=config, origins=resolved.origins), name


def _initialised(
    config: TrainConfig, architecture: ModelConfig, dataset: Dataset, reporter: Reporter, data_progress: DataProgress
) -> tuple[nn.Module | None, dict[str, Any] | None]:
    """The model filled from `--init`, and what was taken from there; nothing where it is not asked for."""
    if config.init is None:
        return None, None
    from cctkit.training.pretrained import initialise

    model = build_model(architecture, seed=config.seed)
    report = initialise(model, config.init, config=architecture, class_names=dataset.class_names, progress=data_progress)
    reporter.notice("\n".join(report.lines()))
    return model, report.as_dict()


def _normalised_as(dataset: Dataset, report: Mapping[str, Any] | None) -> Dataset:
    """Pretrained weights expect the normalisation that they were trained with."""
    if not report or report["mean"] is None:
        return dataset
    mean, std = report["mean"], report["std"]
    return replace(dataset, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def _check_against_data(config: TrainConfig, dataset: Dataset, policy: DevicePolicy, ranks: Ranks) -> None:
    """What only the data can tell.

    Raises: UserError.
    """
    _check_ranks(config, policy, ranks)
    images = len(dataset.train)
    if config.batch_size > images:
        raise UserError(
            f"the batch of {config.batch_size} is larger than the {images:,} training images",
            "--batch-size",
            f"at most {images}",
        )
    if dataset.test is None:
        raise UserError(f"{dataset.name} has no test images", "--dataset", "add a folder test/ beside train/")
    if config.early_stopping is not None and dataset.val is None:
        raise UserError("early stopping needs validation images", "--early-stopping", "add --val-fraction 0.1")


def _check_ranks(config: TrainConfig, policy: DevicePolicy, ranks: Ranks) -> None:
    """--batch-size is that of all ranks together, dealt in pairs: see `share_of_batch`.

    Raises: UserError.
    """
    if ranks.size > 1 and config.batch_size < 2 * ranks.size:
        raise UserError(
            f"a batch of {config.batch_size} images for {ranks.size} processes together: some would have none",
            "--batch-size",
            f"at least {2 * ranks.size}",
        )
    if config.shard and ranks.size > 1 and policy.precision == "fp16":  # each would find a scale of its own
        raise UserError("fp16 does not go with --shard", "--precision", "use bf16 or float32")


def _first_line(config: TrainConfig, recipe_name: str, dataset: Dataset, policy: DevicePolicy, ranks: Ranks) -> str:
    height, width = dataset.image_size
    stored_height, stored_width = dataset.stored_size
    enlarged = f" from {stored_height}x{stored_width}" if dataset.is_enlarged else ""
    return (
        f"{config.model.model} on {dataset.name} ({len(dataset.train):,} images, {len(dataset.class_names)} classes, "
        f"{height}x{width}{enlarged}), recipe {recipe_name}, {config.epochs} epochs, {policy.device} {policy.precision}"
        + (f", {ranks.size} processes" if ranks.size > 1 else "")
        + (f", {'sharded' if ranks.size > 1 else 'not sharded: there is but one process'}" if config.shard else "")
    )


def _write_settings(
    run: RunDir,
    resolved: Resolved,
    recipe_name: str,
    dataset: Dataset,
    policy: DevicePolicy,
    report: dict[str, Any] | None,
    ranks: Ranks,
) -> None:
    """`env.json` and `config.json`, before the first step; with the latter the directory is a run."""
    values = resolved.config.flat()
    run.write_json(
        run.env,
        environment(policy, ranks=ranks.size, sharded=resolved.config.shard and ranks.size > 1)
        | {"dataset": dataset_info(dataset) | {"skipped": list(dataset.skipped)}, "init": report},
    )
    run.write_json(run.config, {"values": values, "origins": dict(resolved.origins), "recipe": recipe_name})


def _resumed(stored: TrainConfig, flags: Mapping[str, Any], path: Path) -> TrainConfig:
    """The stored settings with those flags that may change.

    Raises: UserError naming the setting that a flag would change.
    """
    asked = stored.replace(**flags)
    before, after = stored.flat(), asked.flat()
    may_change = {item.name for item, _ in settings() if item.metadata["may_change"]}
    for key in flags:
        if key not in may_change and after[key] != before[key]:
            raise UserError(
                f"a resumed run keeps its settings: {key} is {before[key]}, asked for {after[key]}",
                safe_text(path),
                "leave the flag out, or start a new run",
            )
    return asked


def _train(job: Job, recipe_name: str | None, *, resume: bool) -> dict[str, Any]:
    """Train to the end, evaluate, and write what is left of it."""
    job = replace(job, dataset=job.policy.hold(job.dataset, workers=job.config.data.workers))
    state, history = fit(job, resume=resume)
    test = job.dataset.test
    assert test is not None
    evaluation = evaluate(job, state.result, test, "test")
    weights = result_tensors(state)
    result = job.ranks.by_first(lambda: write_result(job, recipe_name, state, history, evaluation, weights))
    job.ranks.check(job.stop)
    return result
