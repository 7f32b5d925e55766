"""A training run as its parts see it: settings, data, model, run directory, and who is told of its progress."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from cctkit.config.settings import ModelConfig, TrainConfig
from cctkit.data.splits import Dataset
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import ALONE, DistContext
from cctkit.engine.signals import StopRequest
from cctkit.runs.rundir import RunDir
from cctkit.training.schedule import Schedule, schedule_of, steps_per_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training stands, at a log."""

    epoch: int  # from 0
    epochs: int
    step: int  # of the epoch
    steps: int
    loss: float
    lr: float
    images_per_s: float
    step_s: float | None
    """Without the epoch's first step, which compiles and reserves memory; None: nothing else is done yet."""


class Reporter(Protocol):
    """Receives the progress of training, to show it."""

    log_every_s: float

    def notice(self, text: str) -> None: ...
    def progress(self, now: Progress) -> None: ...
    def evaluating(self, split: str, done: int, total: int) -> None: ...
    def epoch(self, record: Mapping[str, Any], epochs: int) -> None: ...
    def data(self, what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who is told of a run's progress, when it is to stop, and the processes that train it."""

    reporter: Reporter
    stop: StopRequest
    ranks: DistContext

    def on_data(self, what: str, done: int, total: int) -> None:
        """Tell how far long work on the data is.

        Raises: StoppedError if the user has stopped the run.
        """
        self.stop.check()
        self.reporter.data(what, done, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: what to do, with what, where to, and whom to tell."""

    config: TrainConfig
    dataset: Dataset
    policy: DevicePolicy
    run: RunDir
    reporter: Reporter
    stop: StopRequest = field(default_factory=StopRequest)
    model_config: ModelConfig | None = None  # None: `model` is none of cctkit's
    model: nn.Module | None = None  # with weights to begin with; None: freshly initialised
    recipe: str | None = None
    ranks: DistContext = ALONE

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return steps_per_epoch(len(self.dataset.train), self.config.batch_size)

    @property
    def workers(self) -> int:
        """Processes that read images, beside this one."""
        return self.dataset.workers(self.config.data.workers, processes=self.ranks.local_size)

    @property
    def schedule(self) -> Schedule:
        return schedule_of(self.config, self.steps)
