"""Evaluates a model on a split: logits, metrics, and the result that `train` and `eval` report."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cctkit.data.preprocess import Preprocess
from cctkit.data.reading import images_at_once, read_ahead
from cctkit.data.splits import Split
from cctkit.data.transfer import to_device
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import ALONE, DistContext
from cctkit.engine.parallel import is_sharded
from cctkit.evaluation.class_metrics import ClassMetrics, balanced_accuracy_interval, macro_f1_interval, predicted_classes
from cctkit.evaluation.metrics import Metrics, compute_metrics, is_correct
from cctkit.models.depth import is_embedding

# Fixed, so that `eval` repeats the metrics of training exactly.
BATCH_SIZE = 250


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Metrics, logits (n, K), labels (n,) and speed of one split."""

    metrics: Metrics
    logits: Tensor
    labels: Tensor
    images_per_s: float

    @property
    def is_correct(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each image is classified correctly (n,)."""
        return is_correct(self.logits, self.labels).numpy()

    @property
    def found(self) -> Tensor:
        """See `predicted_classes`."""
        return predicted_classes(self.logits)


def evaluate_split(
    model: nn.Module,
    split: Split,
    *,
    preprocess: Preprocess,
    policy: DevicePolicy,
    labels: np.ndarray | None = None,
    label_smoothing: float = 0.0,
    on_batch: Callable[[int, int], None] = lambda *_: None,
    context: DistContext = ALONE,
    workers: int = 0,
) -> Evaluation:
    """Evaluate `model` on every image of `split`; its mode and attention implementation are restored afterwards.

    With several ranks each evaluates its share of the batches, and all get the whole result.

    labels: int64 (n,), instead of the split's, if the model orders its classes differently.
    on_batch: called with (done, total) after each batch; may raise to stop.
    workers: number of processes that read ahead.
    """
    start = time.perf_counter()
    logits = logits_of(
        model,
        split,
        preprocess=preprocess,
        policy=policy,
        on_batch=on_batch,
        context=context,
        workers=workers,
    ).cpu()
    seconds = time.perf_counter() - start
    targets = torch.from_numpy(split.labels if labels is None else labels)
    metrics = compute_metrics(logits, targets, label_smoothing=label_smoothing)
    return Evaluation(metrics=metrics, logits=logits, labels=targets, images_per_s=len(split) / seconds)


def logits_of(
    model: nn.Module,
    split: Split,
    *,
    preprocess: Preprocess,
    policy: DevicePolicy,
    on_batch: Callable[[int, int], None] = lambda *_: None,
    context: DistContext = ALONE,
    workers: int = 0,
) -> Tensor:
    """The logits of every image of `split`, float32 (n, K) on the device; with one rank without a device synchronisation."""
    parts: list[Tensor] = []
    total = len(split)
    firsts = context.share(range(0, total, BATCH_SIZE))  # whole batches, so that the logits equal those of one rank
    mine = [np.arange(first, min(first + BATCH_SIZE, total)) for first in firsts]
    most = images_at_once(3 * math.prod(split.image_size), workers) if workers else BATCH_SIZE
    images_per_round = BATCH_SIZE * context.world_size  # a batch on each rank
    sharded = is_sharded(model)

    def forward(images: Tensor) -> Tensor:
        return forward_pass(model, images, preprocess=preprocess, policy=policy)

    stream = read_ahead(split.take, mine, workers=workers, most=most)
    with policy.evaluating(model, keeps_weights=not sharded), contextlib.closing(stream):
        for stop in range(images_per_round, total + images_per_round, images_per_round):
            if len(parts) < len(mine):
                parts.append(forward(next(stream)))
            elif sharded:
                forward(split.take(np.arange(1)))  # to send this rank's shard of the weights to the others
            on_batch(min(stop, total), total)  # equally often on every rank, because it may use collectives
    return context.joined(parts)


def forward_pass(model: nn.Module, images: Tensor, *, preprocess: Preprocess, policy: DevicePolicy) -> Tensor:
    """The logits, float32 (B, K) on the device, of uint8 images (B, 3, H, W); inside of `policy.evaluating(model)`."""
    images = preprocess.to_input(to_device(images, policy.device), channels_last=policy.channels_last)
    return model(images).float()  # type: ignore[no-any-return]


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of parameters: all, and without positional and class embeddings, which torchsummary does not count."""
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    embeddings = sum(size for name, size in sizes.items() if is_embedding(name))
    return {"total": sum(sizes.values()), "without_embeddings": sum(sizes.values()) - embeddings}


def result_of(
    evaluation: Evaluation,
    *,
    model: str,
    dataset: str,
    split: str,
    params: Mapping[str, int],
    class_names: tuple[str, ...],
    temperature: float | None,
) -> dict[str, Any]:
    """The keys of `eval --json` and `result.json`, schema version 1, which stay; others may be added.

    temperature: of the weights, see `WeightsInfo.temperature`.
    """
    metrics = evaluation.metrics
    interval = macro_f1_interval(evaluation.labels, evaluation.found, len(class_names))
    worst = sorted(
        (each for each in metrics.per_class if each.n), key=lambda each: (each.correct / max(each.n, 1), each.index)
    )[:10]
    return {
        "schema_version": 1,
        "model": model,
        "dataset": dataset,
        "split": split,
        "num_images": metrics.num_images,
        "top1_percent": metrics.top1_percent,
        "top1_interval_percent": list(metrics.top1_interval_percent),
        "balanced_accuracy_percent": metrics.balanced_accuracy_percent,
        "balanced_accuracy_interval_percent": [100 * limit for limit in balanced_accuracy_interval(metrics.per_class)],
        "macro_f1_percent": metrics.macro_f1_percent,
        "macro_f1_interval_percent": interval and [100 * limit for limit in interval],
        "top5_percent": metrics.top5_percent,
        "loss": metrics.loss,
        "ece": metrics.ece,
        **_calibrated(evaluation, temperature),
        "params": dict(params),
        "images_per_s": evaluation.images_per_s,
        "worst_classes": [
            {"class": class_names[each.index], "num_images": each.n, "top1_percent": 100 * each.correct / max(each.n, 1)}
            for each in worst
        ],
        "confusions": [
            {"class": class_names[true], "predicted": class_names[found], "count": count}
            for true, found, count in metrics.confusions
        ],
        "per_class": [_class_row(each, class_names[each.index]) for each in metrics.per_class],
    }


def _calibrated(evaluation: Evaluation, temperature: float | None) -> dict[str, float | None]:
    """The temperature, and cross entropy and calibration error with it."""
    if temperature is None:
        return dict.fromkeys(("temperature", "calibrated_loss", "calibrated_ece"))
    metrics = compute_metrics(evaluation.logits.double() / temperature, evaluation.labels)
    return {"temperature": temperature, "calibrated_loss": metrics.loss, "calibrated_ece": metrics.ece}


def _class_row(metrics: ClassMetrics, name: str) -> dict[str, Any]:
    shares = {"precision": metrics.precision, "recall": metrics.recall, "f1": metrics.f1}
    percents = {f"{key}_percent": None if value is None else 100 * value for key, value in shares.items()}
    return {"class": name, "num_images": metrics.n, "num_predicted": metrics.predicted, **percents}
