"""Metrics from logits and labels, in float64 on the CPU."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cctkit.evaluation.calibration import calibration_error
from cctkit.evaluation.class_metrics import ClassMetrics, balanced_accuracy, class_metrics, macro_f1, predicted_classes
from cctkit.evaluation.intervals import wilson_interval
from cctkit.evaluation.losses import cross_entropy, smoothed

_TOP = 5
_CONFUSIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Metrics of one split; None if not finite.

    top1_interval_percent: 95% confidence interval.
    balanced_accuracy_percent: mean recall of the classes that have images.
    macro_f1_percent: mean F1 of the classes that have images or predictions.
    top5_percent: None for five classes or fewer.
    loss: cross entropy, nats per image.
    loss_smoothed: cross entropy with label smoothing.
    ece: expected calibration error, a fraction: see `calibration_error`.
    confusions: (class, predicted, count), most frequent first, at most 10.
    """

    num_images: int
    top1_percent: float
    top1_interval_percent: tuple[float, float]
    balanced_accuracy_percent: float
    macro_f1_percent: float
    top5_percent: float | None
    loss: float | None
    loss_smoothed: float | None
    ece: float | None
    per_class: tuple[ClassMetrics, ...]
    confusions: tuple[tuple[int, int, int], ...]


def compute_metrics(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Metrics:
    """The metrics of `logits` (N, K) against `labels` (N,), int64, for N of at least 1.

    Ties rank in class order. A row with a logit that is not finite counts as wrong, and in no confusion.
    """
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    classes = logits.shape[1]
    usable = logits.isfinite().all(dim=1)
    found = predicted_classes(logits)
    correct = is_correct(logits, labels)
    log_p = logits.log_softmax(dim=1)  # (N, K)
    loss = cross_entropy(log_p, labels).mean()
    loss_smoothed = smoothed(loss, log_p.mean(), label_smoothing) if label_smoothing else loss
    number, hits = len(labels), int(correct.sum())
    in_top = int((_in_top(logits, labels) & usable).sum())
    low, high = wilson_interval(hits, number)
    per_class = class_metrics(labels, found, classes)
    return Metrics(
        num_images=number,
        top1_percent=100 * hits / number,
        top1_interval_percent=(100 * low, 100 * high),
        balanced_accuracy_percent=100 * balanced_accuracy(per_class),
        macro_f1_percent=100 * macro_f1(per_class),
        top5_percent=100 * in_top / number if classes > _TOP else None,
        loss=_finite(loss),
        loss_smoothed=_finite(loss_smoothed),
        ece=_finite(calibration_error(log_p.exp().amax(dim=1), correct)),
        per_class=per_class,
        confusions=_confusions(labels[usable], found[usable], classes),
    )


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each row of `logits` (N, K) is largest at its label, and finite: bool (N,)."""
    return (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)


def _in_top(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each label is among the five largest logits of its row. Not by topk, which does not define the order of ties."""
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | (logits == own) & before).sum(dim=1) < _TOP  # (N,)


def _confusions(labels: Tensor, found: Tensor, classes: int) -> tuple[tuple[int, int, int], ...]:
    wrong = found != labels
    pairs, counts = np.unique((labels[wrong] * classes + found[wrong]).numpy(), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_CONFUSIONS]
    return tuple((int(pairs[i]) // classes, int(pairs[i]) % classes, int(counts[i])) for i in order)


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
