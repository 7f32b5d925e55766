"""What a finished run leaves behind: weights, predictions, figures and the picture of its curves."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cctkit.data.overlap import copy_figures
from cctkit.data.splits import Dataset
from cctkit.evaluation import Evaluation, count_parameters, result_of
from cctkit.models.weights import Upsampling, WeightsInfo, save_weights
from cctkit.plots import draw_curves
from cctkit.predictions import write_predictions
from cctkit.runfiles import read_metrics
from cctkit.score import score
from cctkit.training.loop import Job, count_trainable
from cctkit.training.state import History
from cctkit.training.step import TrainState


def write_result(
    job: Job,
    recipe_name: str | None,
    state: TrainState,
    history: History,
    evaluation: Evaluation,
    weights: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Write `weights`, the predictions, the picture and the result; the latter is returned."""
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
    )
    result |= copy_figures(test, job.dataset.train, evaluation.is_correct)
    result |= {
        "recipe": recipe_name,
        "epochs": history.epochs_done,
        "epoch": history.best_epoch or history.epochs_done,
        "seed": job.config.seed,
        "trained_params": count_trainable(state.model),
        "score": score(result["top1_percent"], params["total"] / 1e6) if job.dataset.name == "cifar100" else None,
    }
    info = WeightsInfo(
        model=job.model_config,
        class_names=job.dataset.class_names,
        mean=job.dataset.mean,
        std=job.dataset.std,
        resize_mode=job.dataset.resize_mode,
        upsampling=Upsampling(stored_size=job.dataset.stored_size) if job.dataset.is_enlarged else None,
        dataset=dataset_info(job.dataset),
        recipe=recipe_name,
        metrics={key: result[key] for key in ("top1_percent", "top5_percent", "loss", "ece")},
    )
    run = job.run
    save_weights(run.weights, tensors=weights, info=info)
    write_predictions(
        run.predictions,
        ids=test.ids(),
        labels=test.labels,
        logits=evaluation.logits.numpy(),
        class_names=job.dataset.class_names,
        split="test",
        fingerprint=job.dataset.fingerprint,
        split_fingerprint=test.fingerprint(),
    )
    draw_curves({run.path.name: read_metrics(run.metrics)}, run.curves)
    run.write_json(run.result, result)
    return result


def dataset_info(dataset: Dataset) -> dict[str, Any]:
    """What is told of the data set in a run's files."""
    return {
        "name": dataset.name,
        "named": dataset.named,
        "fingerprint": dataset.fingerprint,
        "split_seed": dataset.split_seed,
        "val_fraction": dataset.val_fraction,
        "split_rule": dataset.split_rule,
    }
