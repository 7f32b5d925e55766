"""Metrics per class and their means: precision, recall, F1, balanced accuracy, macro F1, the confusion matrix.

Defined as in scikit-learn (`precision_recall_fscore_support`, `balanced_accuracy_score`, `confusion_matrix`), but a ratio of
nothing is None instead of 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cctkit.evaluation.intervals import bootstrap_interval, mean_interval

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMetrics:
    """Number of images of one class, how many of them are classified correctly, and how many images are taken for the class."""

    index: int
    n: int
    correct: int
    predicted: int

    @property
    def recall(self) -> float | None:
        """None without images."""
        return self.correct / self.n if self.n else None

    @property
    def precision(self) -> float | None:
        """None if no image is taken for the class."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); None without images and predictions."""
        return 2 * self.correct / (self.n + self.predicted) if self.n + self.predicted else None


def predicted_classes(logits: Tensor) -> Tensor:
    """The class of the largest logit of each row of `logits` (N, K), int64 (N,); K for a row that is not finite."""
    return logits.argmax(dim=1).masked_fill(~logits.isfinite().all(dim=1), logits.shape[1])


def class_metrics(labels: Tensor, found: Tensor, classes: int) -> tuple[ClassMetrics, ...]:
    """The metrics of each class, from labels and `predicted_classes`, int64 (N,)."""
    counts = _counts(labels.numpy(), found.numpy(), classes)
    return tuple(
        ClassMetrics(index=i, n=n, correct=hit, predicted=taken)
        for i, (n, hit, taken) in enumerate(zip(*(each.tolist() for each in counts), strict=True))
    )


def balanced_accuracy(per_class: Sequence[ClassMetrics]) -> float:
    """The mean recall of the classes that have images, a fraction."""
    return float(np.mean([each.recall for each in per_class if each.recall is not None]))


def balanced_accuracy_interval(per_class: Sequence[ClassMetrics]) -> tuple[float, float]:
    """The 95% interval of the balanced accuracy, as fractions: see `mean_interval`."""
    counts = np.array([(each.correct, each.n) for each in per_class if each.n])
    return mean_interval(counts[:, 0], counts[:, 1])


def macro_f1(per_class: Sequence[ClassMetrics]) -> float:
    """The mean F1 of the classes that have images or predictions, a fraction."""
    return float(np.mean([each.f1 for each in per_class if each.f1 is not None]))


def macro_f1_interval(labels: Tensor, found: Tensor, classes: int) -> tuple[float, float] | None:
    """The 95% bootstrap interval of the macro F1 over images, as fractions: see `bootstrap_interval`."""
    own, taken = labels.numpy(), found.numpy()

    def macro_f1_of(images: Array) -> float:
        n, correct, predicted = _counts(own[images], taken[images], classes)
        either = n + predicted
        return float((2 * correct[either > 0] / either[either > 0]).mean())

    return bootstrap_interval(macro_f1_of, len(own))


def confusion_matrix(labels: Tensor, found: Tensor, classes: int) -> Array:
    """How many images of each class (rows) are taken for each class (columns): int64 (K, K + 1).

    The last column counts the images without a prediction, whose logits are not finite.
    """
    cells = (labels * (classes + 1) + found).numpy()
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _counts(labels: Array, found: Array, classes: int) -> tuple[Array, Array, Array]:
    """Images, correct predictions and predictions of each class, int64 (K,) each."""
    n = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[labels == found], minlength=classes)
    return n, correct, np.bincount(found, minlength=classes)[:classes]
