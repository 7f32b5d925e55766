"""Measures what the epochs of a run take on this machine, on a copy of its model, before the first one."""

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cctkit.config.duration import duration_text
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.splits import Split
from cctkit.errors import ResourceError, is_out_of_memory
from cctkit.evaluation.evaluate import BATCH_SIZE
from cctkit.runs.rundir import TIMING, RunDir
from cctkit.training.budget import Budget, Costs, fitting_epochs
from cctkit.training.job import Job
from cctkit.training.loop import Keep, begin, draw_plan, epoch_batches, evaluate, save
from cctkit.training.reporter import SilentReporter
from cctkit.training.state import History
from cctkit.training.step import TrainState, train_step

_WINDOW_S = (1.5, 20.0)
_WINDOW = 0.02
"""The longest measurement of training steps takes this fraction of the budget, within `_WINDOW_S`."""
_FIRST_BATCHES = 2
_GROWTH = 4
_RESULT_S = 2.0
"""For the predictions, `result.json` and the plot at the end."""


def epochs_in(budget: Budget, job: Job, keep: Callable[[Job], Keep]) -> tuple[int, float]:
    """The number of epochs of `job` that fit into `budget`, and the seconds of one; all ranks agree on them.

    The job's model, files and random numbers stay as they are.

    keep: for a job, what it saves after each epoch.

    Raises: UserError if not even one epoch fits; StoppedError; ResourceError if memory runs out.
    """
    job.reporter.notice(f"--time {budget.text}: measuring how long an epoch takes")
    try:
        with job.policy.drawing():
            costs = _costs(job, budget, keep)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"out of memory with --batch-size {job.config.batch_size} and --accumulate {job.config.accumulate}",
            job.policy.device,
            f"use --accumulate {2 * job.config.accumulate}, which keeps the batch size, or a smaller --batch-size",
        ) from error
    spent_s = _agreed(job, budget.spent_s)
    with job.context.sync_errors():
        epochs = fitting_epochs(budget, spent_s, costs)
    total, each = duration_text(spent_s + costs.run_s(epochs)), duration_text(costs.epoch_s)
    job.reporter.notice(f"--time {budget.text}: {epochs:,} epoch{'s' if epochs > 1 else ''} of about {each}, {total} in all")
    return epochs, costs.epoch_s


def _costs(job: Job, budget: Budget, keep: Callable[[Job], Keep]) -> Costs:
    folder = job.run.path / TIMING
    trial = replace(job, model=copy.deepcopy(job.model), run=RunDir.of_another(folder), reporter=SilentReporter()).held()
    try:
        job.context.run_on_rank0(lambda: folder.mkdir(exist_ok=True))
        return _Trial(job=trial, budget=budget).costs(keep(trial))
    finally:
        if job.context.is_rank0:
            shutil.rmtree(folder, ignore_errors=True)


def _agreed(job: Job, seconds: float) -> float:
    """The largest of the ranks' times."""
    (micros,) = job.context.all_reduce_max(round(1e6 * seconds))
    return micros / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A job whose model and files are thrown away."""

    job: Job
    budget: Budget

    def costs(self, keep: Keep) -> Costs:
        job = self.job
        begun: list[tuple[TrainState, History]] = []
        begin_s = self._seconds(lambda: begun.append(begin(job, resume=False)))
        state, history = begun[0]
        plans: list[EpochPlan] = []
        plan_s = self._seconds(lambda: plans.append(draw_plan(job, 0)))
        first_s = self._seconds(lambda: self._train(state, plans[0], _FIRST_BATCHES))  # compiles and allocates
        batch_s, further_s = first_s / _FIRST_BATCHES, 0.0
        if first_s <= self.budget.seconds:
            batch_s, further_s = self._training(state, plans[0])
        test = job.dataset.test
        assert test is not None
        image_s = self._evaluation(state, test)
        held_out = len(job.dataset.val or ()) + (len(test) if job.config.test_every_epoch else 0)
        saving_s = min(self._seconds(lambda: _save_epoch(job, state, history, keep)) for _ in range(2))
        return Costs(
            start_s=begin_s + max(0.0, first_s - _FIRST_BATCHES * batch_s),
            epoch_s=plan_s + job.steps * batch_s + further_s + held_out * image_s + saving_s,
            end_s=len(test) * image_s + _RESULT_S,
        )

    def _seconds(self, work: Callable[[], object]) -> float:
        """How long `work` takes, on the slowest rank."""
        start = self.budget.clock()
        work()
        return _agreed(self.job, self.budget.clock() - start)

    @property
    def _window_s(self) -> float:
        return min(max(_WINDOW * self.budget.seconds, _WINDOW_S[0]), _WINDOW_S[1])

    def _train(self, state: TrainState, plan: EpochPlan, batches: int) -> None:
        """Train on the first batches of an epoch, with a learning rate of 0."""
        job = self.job
        rows = np.arange(min(batches * job.config.batch_size, len(plan)))
        for batch in epoch_batches(job, plan.at(rows)):
            train_step(state, batch, config=job.config, policy=job.policy, lr_factor=0.0)
            job.context.check(job.stop)
        state.sums.tolist()  # waits for the device

    def _training(self, state: TrainState, plan: EpochPlan) -> tuple[float, float]:
        """Seconds per batch, and further ones per epoch: parts of an epoch that get longer, at most the whole one, repeatedly.

        With workers an epoch begins with an empty queue, which a part shorter than an epoch may not be charged with in
        proportion: what a batch takes is the difference of two parts.
        """
        window_s, steps = self._window_s, self.job.steps
        batches, before, whole = _FIRST_BATCHES, (0, 0.0), [0.0]
        batches = min(batches, steps)
        while True:
            seconds = self._seconds(lambda: self._train(state, plan, batches))  # noqa: B023
            if batches == steps:
                whole.append(seconds)
            if max(seconds, sum(whole)) >= window_s or seconds / batches * steps > self.budget.seconds:
                break
            if batches < steps:
                before = (batches, seconds)
                wanted = math.ceil(1.1 * batches * window_s / max(seconds, 1e-6))
                batches = min(steps, _GROWTH * batches, max(wanted, batches + 1))
        if len(whole) > 1:
            return sum(whole) / (len(whole) - 1) / steps, 0.0
        mean_s = seconds / batches
        if not self.job.workers or not before[0]:
            return mean_s, 0.0
        batch_s = min(max((seconds - before[1]) / (batches - before[0]), mean_s / 2), mean_s)
        return batch_s, seconds - batches * batch_s

    def _evaluation(self, state: TrainState, split: Split) -> float:
        """Seconds per image: parts of the split that get larger, at most all of it."""
        job = self.job
        number = min(2 * BATCH_SIZE * job.context.world_size, len(split))
        part = split.only(np.arange(min(BATCH_SIZE, len(split))))
        self._seconds(lambda: evaluate(job, state.result, part, "test"))  # allocates
        while True:
            part = split.only(np.arange(number))
            seconds = self._seconds(lambda: evaluate(job, state.result, part, "test"))  # noqa: B023
            if number == len(split) or seconds >= self._window_s / 4:
                return seconds / number
            number = min(len(split), _GROWTH * number)


def _save_epoch(job: Job, state: TrainState, history: History, keep: Keep) -> None:
    """What the loop saves at the end of an epoch."""
    record = {"epoch": history.epochs_done + 1, "val_top1_percent": 0.0} if job.dataset.val else {"epoch": 1}
    job.context.run_on_rank0(lambda: job.run.append_metrics(record))
    history.add(record, state.result)
    keep(state, history)
    state.step += 1
    save(job, state, history)
