"""Settings, recipe and environment of a run that is resumed, from its directory."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cctkit.config.model import ModelConfig
from cctkit.config.settings import TrainConfig, check_settings, settings
from cctkit.data.splits import Dataset
from cctkit.data.splitting import rule_of
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import DistContext, launch_of_job
from cctkit.engine.environment import read_environment
from cctkit.errors import UserError
from cctkit.runs.paths import DEFAULT_ROOT, RunPaths
from cctkit.runs.rundir import RunDir
from cctkit.runs.runfiles import read_object, read_settings
from cctkit.text import safe_text
from cctkit.training.prepare import architecture_of, check_ranks
from cctkit.training.request import Request, check_tracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A run that is resumed.

    config: its settings, with the user's changes.
    env: its `env.json`.
    split_rule: rule by which its data set was split.
    """

    config: TrainConfig
    recipe: str | None
    env: dict[str, Any]
    split_rule: int
    has_checkpoint: bool


def read_stored(run: RunDir, flags: Mapping[str, Any], context: DistContext) -> Stored:
    """Read the run on rank 0, for all ranks: other machines may not see the directory.

    Raises: UserError if a file is damaged, or `flags` change a setting that may not change.
    """

    def read() -> Stored:
        stored, recipe = read_settings(run.config)
        config = changed_settings(stored, flags, run.path)
        check_tracker(config.track)
        env = read_environment(run.env)
        return Stored(
            config=config,
            recipe=recipe,
            env=env,
            split_rule=rule_of(env["dataset"], safe_text(run.env)),
            has_checkpoint=any(run.checkpoints.glob("step-*")),
        )

    return context.run_on_rank0(read)


def changed_settings(stored: TrainConfig, flags: Mapping[str, Any], path: Path) -> TrainConfig:
    """The stored settings updated with `flags`.

    Raises: UserError if a flag changes a setting that may not change.
    """
    before = stored.flat()
    may_change = {item.name for item, _ in settings() if item.metadata["may_change"]}
    changed = [
        f"{key} is {before[key]}, got {asked}"
        for key, asked in check_settings(flags).items()
        if key not in may_change and asked != before[key]
    ]
    if changed:
        new_run = f"cctkit train -c {safe_text(RunPaths(path).config)} --init {safe_text(path)}"
        longer = flags.get("epochs", 0) > stored.epochs and RunPaths(path).weights.exists()
        raise UserError(
            f"a resumed run keeps its settings: {'; '.join(changed)}",
            safe_text(path),
            f"start a new run from its weights: {new_run} --epochs {flags['epochs']}"
            if longer
            else "omit the flag, or start a new run",
        )
    return stored.replace(**flags)


def check_same_data(dataset: Dataset, stored: Stored, run: RunDir, policy: DevicePolicy, context: DistContext) -> ModelConfig:
    """Check on all ranks that the images are those that the run started with; return the model configuration.

    Raises: UserError.
    """
    with context.sync_errors():
        if dataset.fingerprint != stored.env["dataset"]["fingerprint"]:
            raise UserError(
                f"the images of {dataset.name} are not those that the run started with", str(run.path), "restore them"
            )
        check_ranks(stored.config, policy, context)
        return architecture_of(stored.config, dataset)


def restarted_run(request: Request, context: DistContext) -> Path | None:
    """The run that this job created before torchrun restarted it; None for the first start."""
    return context.run_on_rank0(lambda: _run_of_launch(request.output)) if context.restarts else None


def _run_of_launch(output: Path | None) -> Path | None:
    places = [output] if output else sorted(DEFAULT_ROOT.glob("*"), reverse=True)
    for place in places:
        with contextlib.suppress(UserError):
            if RunPaths(place).config.is_file() and read_object(RunPaths(place).env).get("launch") == launch_of_job():
                return place
    return None
