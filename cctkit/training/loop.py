"""The training loop: epochs of training steps, evaluation and checkpoints."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.augment import Batch
from cctkit.data.epoch.loader import train_batches
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.splits import Dataset, Split
from cctkit.engine.parallel import to_device_or_shard
from cctkit.errors import DamagedError, DivergedError, ResourceError, StoppedError, is_out_of_memory
from cctkit.evaluation.calibration import fit_temperature
from cctkit.evaluation.evaluate import Evaluation, evaluate_split
from cctkit.models.depth import freeze_backbone
from cctkit.runs.runfiles import read_metrics
from cctkit.training.checkpoint import load_checkpoint, save_checkpoint
from cctkit.training.collective import checkpoint_for_all
from cctkit.training.job import Job
from cctkit.training.optim import make_optimizers
from cctkit.training.reporter import Progress, StartedRun
from cctkit.training.schedule import lr_factor
from cctkit.training.state import History, pack, unpack
from cctkit.training.step import EpochSums, TrainState, new_state, train_step

_CHECKPOINT_EVERY_S = 300.0

Keep = Callable[[TrainState, History], None]
"""Saves what a run keeps of each epoch besides checkpoints; all ranks call it."""


def fit(job: Job, *, resume: bool = False, keep: Keep = lambda *_: None) -> tuple[TrainState, History]:
    """Train to the end; return the state with the weights of the result, and the history.

    torch's default generators are left unchanged.

    resume: start from the newest checkpoint.
    keep: called at the end of each epoch before its checkpoint is saved, so that what it writes is never older.

    Raises: DivergedError, ResourceError; after saving a checkpoint StoppedError (on a signal) and DamagedError.
    """
    with job.policy.drawing():
        return _fit(job, resume=resume, keep=keep)


def _fit(job: Job, *, resume: bool, keep: Keep) -> tuple[TrainState, History]:
    state, history = begin(job, resume=resume)
    _report_start(job)
    while history.epochs_done < job.config.epochs and not _stops_early(job, history):
        epoch = history.epochs_done
        try:
            speed = _train_epoch(job, state, history)
            record = _record(job, state, epoch, speed)
        except StoppedError:
            save(job, state, history)
            raise
        except DamagedError:
            if job.context.world_size == 1:  # a rank alone cannot save
                save(job, state, history)
            raise
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _out_of_memory(job) from error
        job.context.run_on_rank0(lambda record=record: job.run.append_metrics(record))  # type: ignore[misc]
        history.add(record, state.result, choose_by=job.config.choose_by)
        keep(state, history)
        state.sums.zero_()
        save(job, state, history)
        with job.context.sync_errors():
            job.reporter.epoch(record, job.config.epochs)
    if history.best is not None:
        state.result.load_state_dict(history.best)
    return state, history


def _out_of_memory(job: Job) -> ResourceError:
    return ResourceError(
        f"out of memory with --batch-size {job.config.batch_size} and --accumulate {job.config.accumulate}",
        f"{job.policy.device}; the last checkpoint is intact",
        f"use --accumulate {2 * job.config.accumulate}, which keeps the batch size, or a smaller --batch-size",
    )


def begin(job: Job, *, resume: bool) -> tuple[TrainState, History]:
    """A new train state, saved at once so that a full disk shows early; or the state of the newest checkpoint."""
    config, policy = job.config, job.policy
    model = job.model
    if config.freeze == "backbone":
        freeze_backbone(model)
        trained, total = count_trainable(model), sum(weight.numel() for weight in model.parameters())
        job.reporter.notice(f"the backbone is frozen, without dropout; AdamW trains the head: {trained:,} of {total:,} weights")
    model, ema = to_device_or_shard(model, config=config, policy=policy, context=job.context)
    state = new_state(model.train(), make_optimizers(model, config), ema=ema, policy=policy, context=job.context)
    history = History()
    found = None
    if resume:
        found = checkpoint_for_all(job.context, lambda: load_checkpoint(job.run.checkpoints, warn=job.reporter.notice))
    if found is None:
        save(job, state, history)
    else:
        with job.context.sync_errors():
            history = unpack(found, state, steps=job.steps)
    job.context.run_on_rank0(lambda: job.run.keep_metrics(history.epochs_done))
    return state, history


def _report_start(job: Job) -> None:
    with job.context.sync_errors():
        records = read_metrics(job.run.metrics) if job.context.is_rank0 else []
        job.reporter.started(StartedRun(path=job.run.path, settings=job.config.flat(), recipe=job.recipe, records=records))


def count_trainable(model: nn.Module) -> int:
    """Number of trainable weights: without frozen ones and fixed positional embeddings."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def save(job: Job, state: TrainState, history: History) -> None:
    """Save a checkpoint."""
    tensors, values = pack(state, history)
    save_checkpoint(job.run.checkpoints, step=state.step, tensors=tensors, state=values, context=job.context)


def _stops_early(job: Job, history: History) -> bool:
    patience = job.config.early_stopping
    return patience is not None and history.epochs_done - history.improved_epoch >= patience and history.best_epoch > 0


def draw_plan(job: Job, epoch: int) -> EpochPlan:
    """The random draws of an epoch of the job, counted from 0."""
    return plan_of(job.config, job.dataset, epoch)


def plan_of(config: TrainConfig, dataset: Dataset, epoch: int) -> EpochPlan:
    """The random draws of an epoch, counted from 0, of a run with these settings."""
    return EpochPlan.draw(
        seed=config.seed,
        epoch=epoch,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        image_size=dataset.stored_size,
        config=config.augment_in(epoch),
        read_size=dataset.train.image_size,
        labels=dataset.train.labels,
        balanced_sampling=config.balanced_sampling,
    )


def epoch_batches(job: Job, plan: EpochPlan, *, start_step: int = 0) -> Iterator[Batch]:
    """This rank's batches of the training images in the order of `plan`, from `start_step` on."""
    dataset = job.dataset
    return train_batches(
        dataset.train,
        plan=plan,
        preprocess=dataset.preprocess,
        device=job.policy.device,
        channels_last=job.policy.channels_last,
        start_step=start_step,
        workers=job.workers,
        chunk_images=dataset.chunk_images,
        rank=job.context.rank,
        ranks=job.context.world_size,
    )


def _train_epoch(job: Job, state: TrainState, history: History) -> dict[str, float]:
    """Train the remaining steps of the current epoch; return its speed. Stop requests are raised between two steps."""
    config, dataset, steps = job.config, job.dataset, job.steps
    epoch = history.epochs_done
    first = state.step - epoch * steps
    start = warm = last_log = last_save = time.perf_counter()
    waited, images = 0.0, 0
    if first == steps:  # the run was stopped during evaluation
        return {}
    batches = epoch_batches(job, draw_plan(job, epoch), start_step=first)
    weights = job.class_weights()
    for step in range(first, steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        factor = lr_factor(state.step, job.schedule)
        train_step(state, batch, config=config, policy=job.policy, lr_factor=factor, class_weights=weights)
        images += min((step + 1) * config.batch_size, len(dataset.train)) - step * config.batch_size
        now = time.perf_counter()
        warm = now if step == first else warm
        stop_number, log, save_now = job.context.all_reduce_max(
            job.stop.signal_number or 0,
            now - last_log >= job.reporter.log_every_s or step + 1 == steps,
            now - last_save >= _CHECKPOINT_EVERY_S,
        )
        if log:
            last_log = now
            loss = _read_back(state)
            job.reporter.progress(
                Progress(
                    epoch=epoch,
                    epochs=config.epochs,
                    step=step + 1,
                    steps=steps,
                    loss=loss,
                    lr=config.lr * factor,
                    images_per_s=images / (now - start),
                    step_s=(now - warm) / (step - first) if step > first else None,
                )
            )
        if stop_number:
            raise StoppedError(stop_number)
        if save_now:
            last_save = now
            save(job, state, history)
    seconds = time.perf_counter() - start
    return {"images_per_s": images / seconds, "input_percent": 100 * waited / seconds, "train_seconds": seconds}


def _read_back(state: TrainState) -> float:
    """The mean cross entropy of the epoch so far: the only place where training synchronises with the device.

    Raises: DivergedError if an update was skipped.
    """
    if state.diverged.item():
        raise DivergedError(
            f"training diverged before step {state.step}: the loss or a gradient is not finite, or the gradient exploded",
            "the last checkpoint is older",
            "lower --lr, or set --clip-grad 1",
        )
    sums = EpochSums[float](*state.sums.tolist())
    return sums.loss / sums.images


def _record(job: Job, state: TrainState, epoch: int, speed: Mapping[str, float]) -> dict[str, Any]:
    """The line of an epoch in `metrics.jsonl`: means over the training steps, and metrics of the validation images.

    With `test_every_epoch` also of the test images, by which nothing is selected.
    """
    sums = EpochSums[float](*state.sums.tolist())
    record: dict[str, Any] = {
        "epoch": epoch + 1,
        "step": state.step,
        "lr": job.config.lr * lr_factor(state.step - 1, job.schedule),
        "train_loss": sums.loss / sums.images,
        "train_loss_smoothed": sums.smoothed_loss / sums.images,
        "train_top1_percent": 100 * sums.correct / sums.images,
    }
    splits = {"val": job.dataset.val, "test": job.dataset.test if job.config.test_every_epoch else None}
    for name, split in splits.items():
        if split is not None:
            evaluation = evaluate(job, state.result, split, name)
            metrics = evaluation.metrics
            record[f"{name}_loss"] = metrics.loss
            record[f"{name}_loss_smoothed"] = metrics.loss_smoothed
            record[f"{name}_top1_percent"] = metrics.top1_percent
            record[f"{name}_balanced_accuracy_percent"] = metrics.balanced_accuracy_percent
            if name == "val":
                record["val_temperature"] = fit_temperature(evaluation.logits, evaluation.labels)
    return record | dict(speed)


def evaluate(job: Job, model: torch.nn.Module, split: Split, name: str) -> Evaluation:
    """Evaluate on a held-out split of the job's data set. Stop requests are raised between two batches."""

    def on_batch(done: int, total: int) -> None:
        job.context.check(job.stop)
        job.reporter.evaluating(name, done, total)

    return evaluate_split(
        model,
        split,
        preprocess=job.dataset.preprocess,
        policy=job.policy,
        label_smoothing=job.config.label_smoothing,
        on_batch=on_batch,
        context=job.context,
        workers=job.workers if job.dataset.is_streamed else 0,
    )
