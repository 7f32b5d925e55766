"""A training run: settings, data, model, run directory and reporter."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from cctkit.config.model import ModelConfig
from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.balance import class_weights
from cctkit.data.splits import Dataset
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import ALONE, DistContext
from cctkit.engine.signals import StopRequest
from cctkit.runs.rundir import RunDir
from cctkit.training.reporter import Reporter
from cctkit.training.schedule import Schedule, schedule_of, steps_per_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Reporter, stop request and ranks of a run, before there is a `Job`."""

    reporter: Reporter
    stop: StopRequest
    context: DistContext

    def on_data(self, what: str, done: int, total: int) -> None:
        """Report the progress of long work on the data.

        Raises: StoppedError if the user has stopped the run.
        """
        self.stop.check()
        self.reporter.data(what, done, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training run.

    model_config: None: `model` is not one of cctkit's.
    model: with its initial weights; training changes it.
    recipe: its name, for the files of the run.
    """

    config: TrainConfig
    model: nn.Module
    dataset: Dataset
    policy: DevicePolicy
    run: RunDir
    reporter: Reporter
    stop: StopRequest = field(default_factory=StopRequest)
    model_config: ModelConfig | None = None
    recipe: str | None = None
    context: DistContext = ALONE

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return steps_per_epoch(len(self.dataset.train), self.config.batch_size)

    @property
    def workers(self) -> int:
        """Number of worker processes that read images."""
        return self.dataset.workers(self.config.data.workers, processes=self.context.local_world_size)

    def class_weights(self) -> Tensor | None:
        """The weights of the loss, (K,) on the device; None without `--class-weights`."""
        if self.config.class_weights is None:
            return None
        classes = len(self.dataset.class_names)
        weights = class_weights(self.dataset.train.labels, classes=classes, power=self.config.class_weights)
        return torch.from_numpy(weights).to(self.policy.device)

    @property
    def schedule(self) -> Schedule:
        return schedule_of(self.config, self.steps)

    def held(self) -> "Job":
        """The same job with its images as training reads them, on the device if they fit."""
        job = replace(self, dataset=self.dataset.for_training(self.config.augment.crop))
        return replace(job, dataset=job.policy.hold(job.dataset, workers=job.workers))
