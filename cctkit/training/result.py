"""Output files of a run: weights after each epoch; at the end predictions, `result.json` and the plot of its curves."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cctkit.catalog.score import score
from cctkit.data.overlap import copy_figures
from cctkit.data.splits import Dataset
from cctkit.errors import UserError
from cctkit.evaluation.evaluate import Evaluation, count_parameters, result_of
from cctkit.files import full_disk_named, sync_directory
from cctkit.models.weights import TEMPERATURE, Trained, Upsampling, WeightsInfo, read_info, save_weights
from cctkit.plots import draw_curves
from cctkit.runs.predictions import Predictions, write_predictions
from cctkit.runs.runfiles import read_metrics
from cctkit.training.job import Job
from cctkit.training.loop import count_trainable
from cctkit.training.state import History, result_tensors, whole_tensors
from cctkit.training.step import TrainState


def write_result(
    job: Job,
    state: TrainState,
    history: History,
    evaluation: Evaluation,
    weights: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Write weights, predictions, plot and `result.json`; return the result."""
    test = job.dataset.test
    assert test is not None
    params = count_parameters(state.result)
    result = result_of(
        evaluation,
        model=job.config.model.model,
        dataset=job.dataset.name,
        split="test",
        params=params,
        class_names=job.dataset.class_names,
        temperature=history.kept_temperature,
    )
    result |= copy_figures(test, job.dataset.train, evaluation.is_correct)
    trained = _trained(job, history, epoch=history.best_epoch or history.epochs_done)
    result |= {
        "recipe": job.recipe,
        "epochs": history.epochs_done,
        **asdict(trained),
        "finished": True,
        "seed": job.config.seed,
        "trained_params": count_trainable(state.model),
        "score": score(result["top1_percent"], params["total"] / 1e6) if job.dataset.name == "cifar100" else None,
    }
    info = _info(job, trained, history.kept_temperature)
    metrics = {key: result[key] for key in ("top1_percent", "top5_percent", "loss", "ece")}
    run = job.run
    save_weights(run.weights, tensors=weights, info=replace(info, metrics={**metrics, **info.metrics}))
    predictions = Predictions(
        ids=test.ids(),
        labels=test.labels,
        logits=evaluation.logits.numpy(),
        class_names=job.dataset.class_names,
        split="test",
        fingerprint=job.dataset.fingerprint,
        split_fingerprint=test.fingerprint(),
    )
    write_predictions(run.predictions, predictions)
    draw_curves({run.path.name: read_metrics(run.metrics)}, run.curves, choose_by=job.config.choose_by)
    run.write_json(run.result, result)
    return result


def keep_weights(job: Job, *, state: TrainState, history: History) -> None:
    """Save the weights of the finished epoch. All ranks call it.

    They are written to `last.safetensors`, which is renamed to `weights.safetensors` if no earlier epoch is better. So
    `weights.safetensors` always holds the best epoch so far, and `last.safetensors`, if it exists, the newest.
    """
    run, newest = job.run, result_tensors(state)

    def write() -> bool:
        trained = _trained(job, history, epoch=history.epochs_done)
        save_weights(run.last, tensors=newest, info=_info(job, trained, history.temperature))
        if not history.newest_is_best:
            return _epoch_in(run.weights) == history.best_epoch
        with full_disk_named(run.weights):
            os.replace(run.last, run.weights)
            sync_directory(run.path)
        return True

    if not job.context.run_on_rank0(write):  # from an older version, or after a kill
        assert history.best is not None
        best = whole_tensors(state, history.best)
        trained = _trained(job, history, epoch=history.best_epoch)
        info = _info(job, trained, history.best_temperature)
        job.context.run_on_rank0(lambda: save_weights(run.weights, tensors=best, info=info))


def _epoch_in(path: Path) -> int | None:
    """The epoch of the weights in `path`; None if unknown."""
    try:
        trained = read_info(path).trained
    except UserError:
        return None
    return trained.epoch if trained else None


def _trained(job: Job, history: History, *, epoch: int) -> Trained:
    chosen_by: Literal["validation", "last epoch"] = "validation" if epoch == history.best_epoch else "last epoch"
    return Trained(epoch=epoch, planned_epochs=job.config.epochs, chosen_by=chosen_by)


def _info(job: Job, trained: Trained, temperature: float | None) -> WeightsInfo:
    """The header of a run's weights, without the metrics of its result."""
    assert job.model_config is not None
    return WeightsInfo(
        model=job.model_config,
        class_names=job.dataset.class_names,
        mean=job.dataset.mean,
        std=job.dataset.std,
        resize_mode=job.dataset.resize_mode,
        upsampling=Upsampling(stored_size=job.dataset.stored_size) if job.dataset.is_enlarged else None,
        dataset=dataset_info(job.dataset),
        recipe=job.recipe,
        metrics={} if temperature is None else {TEMPERATURE: temperature},
        trained=trained,
    )


def dataset_info(dataset: Dataset) -> dict[str, Any]:
    """The entry of the data set in a run's files."""
    return {
        "name": dataset.name,
        "named": dataset.named,
        "fingerprint": dataset.fingerprint,
        "split_seed": dataset.split_seed,
        "val_fraction": dataset.val_fraction,
        "split_rule": dataset.split_rule,
        **({} if dataset.group_by is None else {"group_by": dataset.group_by}),
    }
