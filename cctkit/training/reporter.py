"""What a run reports while it trains: to the terminal, to TensorBoard, or to a tracker of the user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of training at one log."""

    epoch: int  # from 0
    epochs: int
    step: int  # of the epoch
    steps: int
    loss: float
    lr: float
    images_per_s: float
    step_s: float | None
    """Without the first step of the epoch, which compiles and allocates; None if there are no others yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run that starts or resumes.

    path: its directory.
    settings: all settings by name, as JSON values.
    records: the epochs that are done, from 1 on, as `Reporter.epoch` gets them: none if the run is new.
    """

    path: Path
    settings: Mapping[str, Any]
    recipe: str | None
    records: Sequence[Mapping[str, Any]]


class Reporter:
    """What a run reports while it trains. Derive from it and define the methods that you need: the others do nothing.

    With several processes only the first one reports. The next step waits until a method returns.

    log_every_s: least time between two calls of `progress`, in seconds.
    """

    log_every_s = 30.0

    def started(self, run: StartedRun) -> None:
        """Before the first step of a new or resumed run; with `--seeds`, of each."""

    def progress(self, now: Progress) -> None:
        """Within an epoch, and after its last step."""

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        """After an epoch and its checkpoint: its line of `metrics.jsonl`, of a run of so many epochs.

        If the run is killed before this call, the record is the last one of `StartedRun.records` when it is resumed.
        """

    def finished(self, result: Mapping[str, Any]) -> None:
        """At the end, after all files are written: the contents of `result.json`."""

    def notice(self, text: str) -> None:
        """A message for a person."""

    def data(self, what: str, done: int, total: int) -> None:
        """Long work on the images, such as packing. total: 0 if it is not known."""

    def evaluating(self, split: str, done: int, total: int) -> None:
        """Images of a split that are evaluated so far."""


class SilentReporter(Reporter):
    """Shows nothing."""


class Reporters(Reporter):
    """Reports to each of several reporters, in order."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters
        self.log_every_s = min(each.log_every_s for each in reporters)

    def started(self, run: StartedRun) -> None:
        for each in self._reporters:
            each.started(run)

    def progress(self, now: Progress) -> None:
        for each in self._reporters:
            each.progress(now)

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        for each in self._reporters:
            each.epoch(record, epochs)

    def finished(self, result: Mapping[str, Any]) -> None:
        for each in self._reporters:
            each.finished(result)

    def notice(self, text: str) -> None:
        for each in self._reporters:
            each.notice(text)

    def data(self, what: str, done: int, total: int) -> None:
        for each in self._reporters:
            each.data(what, done, total)

    def evaluating(self, split: str, done: int, total: int) -> None:
        for each in self._reporters:
            each.evaluating(split, done, total)
