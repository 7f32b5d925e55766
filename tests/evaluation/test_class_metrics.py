"""Precision, recall, F1 and their means as scikit-learn defines them, and intervals that cover what they promise."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cctkit.evaluation.class_metrics import (
    balanced_accuracy,
    balanced_accuracy_interval,
    class_metrics,
    confusion_matrix,
    macro_f1,
    macro_f1_interval,
    predicted_classes,
)
from cctkit.evaluation.intervals import bootstrap_interval, mean_interval
from cctkit.evaluation.metrics import compute_metrics

# Rows are the classes, columns the predictions, as `sklearn.metrics.confusion_matrix` has them.
MATRIX = [[8, 1, 1], [0, 3, 1], [2, 0, 0]]


def images_of(matrix: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Labels and predictions with this confusion matrix, (N,) each."""
    pairs = [(true, found) for true, row in enumerate(matrix) for found, count in enumerate(row) for _ in range(count)]
    labels, found = torch.tensor(pairs).T
    return labels, found


def test_precision_recall_and_f1_of_each_class_are_scikit_learns() -> None:
    labels, found = images_of(MATRIX)
    rows = class_metrics(labels, found, 3)
    # By hand. Class 0: 8 of 10 found, 10 predicted. Class 1: 3 of 4 found, 4 predicted. Class 2: 0 of 2 found, 2 predicted.
    assert [(row.n, row.correct, row.predicted) for row in rows] == [(10, 8, 10), (4, 3, 4), (2, 0, 2)]
    assert [row.precision for row in rows] == pytest.approx([0.8, 0.75, 0.0])
    assert [row.recall for row in rows] == pytest.approx([0.8, 0.75, 0.0])
    assert [row.f1 for row in rows] == pytest.approx([0.8, 0.75, 0.0])
    assert balanced_accuracy(rows) == pytest.approx((0.8 + 0.75 + 0) / 3)
    assert macro_f1(rows) == pytest.approx((0.8 + 0.75 + 0) / 3)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    labels, found = images_of([[1, 3], [0, 6]])
    first, second = class_metrics(labels, found, 2)
    assert (first.precision, first.recall) == (1.0, 0.25)
    assert first.f1 == pytest.approx(2 / (1 / 1.0 + 1 / 0.25))  # 0.4
    assert (second.precision, second.recall) == (pytest.approx(6 / 9), 1.0)
    assert second.f1 == pytest.approx(2 * 6 / 9 / (6 / 9 + 1))  # 0.8
    assert macro_f1((first, second)) == pytest.approx(0.6)
    assert balanced_accuracy((first, second)) == pytest.approx(0.625)


def test_a_ratio_of_nothing_is_unknown_and_left_out_of_the_means() -> None:
    labels, found = images_of([[2, 0, 1, 0], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    rows = class_metrics(labels, found, 4)
    assert (rows[2].precision, rows[2].recall, rows[2].f1) == (0.0, None, 0.0)  # predicted once, without images
    assert (rows[3].precision, rows[3].recall, rows[3].f1) == (None, None, None)
    assert balanced_accuracy(rows) == pytest.approx((2 / 3 + 1) / 2)
    # scikit-learn averages over the classes that are among labels or predictions: 0.8, 1 and 0.
    assert macro_f1(rows) == pytest.approx(0.6)


def test_an_image_without_a_prediction_is_an_error_of_its_class_and_in_the_last_column() -> None:
    logits = torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.0, 1.0], [0.0, math.inf]])
    labels = torch.tensor([0, 0, 1, 1])
    found = predicted_classes(logits)
    assert confusion_matrix(labels, found, 2).tolist() == [[1, 0, 1], [0, 1, 1]]
    first, second = class_metrics(labels, found, 2)
    assert (first.recall, first.precision, first.f1) == (0.5, 1.0, pytest.approx(2 / 3))
    assert (second.recall, second.precision) == (0.5, 1.0)
    metrics = compute_metrics(logits, labels)
    assert (metrics.balanced_accuracy_percent, metrics.macro_f1_percent) == (50.0, pytest.approx(200 / 3))


def test_the_confusion_matrix_has_the_classes_in_rows_and_the_predictions_in_columns() -> None:
    assert confusion_matrix(*images_of(MATRIX), 3).tolist() == [[*row, 0] for row in MATRIX]


def test_with_equal_classes_balanced_accuracy_is_top1() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 4, generator=generator), torch.arange(60) % 4
    metrics = compute_metrics(logits, labels)
    assert metrics.balanced_accuracy_percent == pytest.approx(metrics.top1_percent)


def test_the_interval_of_one_class_is_wilsons() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263.
    assert mean_interval(np.array([81]), np.array([263])) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_the_interval_of_two_classes_adds_the_squared_distances_to_wilsons_limits() -> None:
    # Wilson's intervals (Newcombe 1998): 15 of 148: 0.0624 to 0.1605; 81 of 263: 0.2553 to 0.3662. Means of both by hand.
    first, second = 15 / 148, 81 / 263
    low = (first + second) / 2 - math.hypot(first - 0.0624, second - 0.2553) / 2
    high = (first + second) / 2 + math.hypot(0.1605 - first, 0.3662 - second) / 2
    assert mean_interval(np.array([15, 81]), np.array([148, 263])) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_of_a_mean_stays_within_0_and_1_and_has_a_width_where_all_is_right() -> None:
    assert mean_interval(np.array([0, 0]), np.array([3, 5]))[0] == 0.0
    low, high = mean_interval(np.array([3, 5]), np.array([3, 5]))
    assert (high, low < 0.8) == (1.0, True)


def test_a_bootstrap_of_a_proportion_is_the_normal_interval() -> None:
    values = np.arange(400) < 300
    interval = bootstrap_interval(lambda images: float(values[images].mean()), 400)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert interval == pytest.approx((0.75 - half, 0.75 + half), abs=0.004)
    assert interval == bootstrap_interval(lambda images: float(values[images].mean()), 400)  # the same every time


def test_a_macro_f1_without_an_error_has_no_interval() -> None:
    labels = torch.arange(12) % 3
    assert macro_f1_interval(labels, labels, 3) is None
    assert macro_f1_interval(labels, (labels + 1) % 3, 3) is None  # all wrong


def test_the_interval_of_the_macro_f1_is_around_it_and_within_0_and_1() -> None:
    labels, found = images_of(MATRIX)
    interval = macro_f1_interval(labels, found, 3)
    assert interval is not None
    assert 0 <= interval[0] < macro_f1(class_metrics(labels, found, 3)) < interval[1] <= 1


def coverage(sizes: list[int], recalls: list[float], *, repeats: int, f1: bool) -> float:
    """How often the interval covers the figure of the population that the images are drawn from; errors are spread evenly."""
    generator, classes = np.random.default_rng(0), len(sizes)
    share = np.array(sizes) / sum(sizes)
    rows = np.array([[(1 - r) / (classes - 1)] * classes for r in recalls])
    np.fill_diagonal(rows, recalls)
    joint = share[:, None] * rows
    truth = float((2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))).mean()) if f1 else float(np.mean(recalls))
    covered = 0
    for _ in range(repeats):
        drawn = torch.from_numpy(generator.choice(classes**2, sum(sizes), p=joint.ravel()))
        labels, found = drawn // classes, drawn % classes
        rows_found = class_metrics(labels, found, classes)
        interval = macro_f1_interval(labels, found, classes) if f1 else balanced_accuracy_interval(rows_found)
        covered += interval is not None and interval[0] <= truth <= interval[1]
    return covered / repeats


CASES = [([100, 50, 20, 10], [0.95, 0.8, 0.6, 0.7]), ([10] * 20, [0.9, 0.5] * 10), ([40] * 5, [0.98] * 5)]


@pytest.mark.parametrize(("sizes", "recalls"), CASES, ids=["imbalanced", "many", "good"])
def test_the_interval_of_the_balanced_accuracy_covers_it_in_about_95_of_100_evaluations(
    sizes: list[int], recalls: list[float]
) -> None:
    assert 0.9 <= coverage(sizes, recalls, repeats=500, f1=False) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "recalls"), CASES, ids=["imbalanced", "many", "good"])
def test_the_interval_of_the_macro_f1_covers_it_in_about_95_of_100_evaluations(sizes: list[int], recalls: list[float]) -> None:
    assert 0.88 <= coverage(sizes, recalls, repeats=200, f1=True) <= 0.99
