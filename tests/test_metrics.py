"""The figures, against torch and against values worked out by hand."""

import math

import pytest
import torch

from cctkit.metrics import compute_metrics, wilson_interval
from cctkit.score import pareto_front, score


def test_loss_and_accuracy_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 20, generator=generator)
    labels = torch.randint(0, 20, (500,), generator=generator)
    metrics = compute_metrics(logits, labels, label_smoothing=0.1)
    cross_entropy = torch.nn.functional.cross_entropy
    assert metrics.loss == pytest.approx(cross_entropy(logits.double(), labels).item(), abs=1e-12)
    assert metrics.loss_smoothed == pytest.approx(cross_entropy(logits.double(), labels, label_smoothing=0.1).item(), abs=1e-12)
    assert metrics.top1_percent == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    in_five = (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    assert metrics.top5_percent == pytest.approx(100 * in_five)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_intervals_are_wilsons(correct: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_the_calibration_error_of_four_images_by_hand() -> None:
    # Confidences 0.9, 0.9, 0.6, 0.6 of two classes; right, wrong, right, right.
    confident, unsure = math.log(9), math.log(1.5)
    logits = torch.tensor([[confident, 0.0], [confident, 0.0], [unsure, 0.0], [unsure, 0.0]], dtype=torch.float64)
    metrics = compute_metrics(logits, torch.tensor([0, 1, 0, 0]))
    assert metrics.ece == pytest.approx((2 * abs(0.9 - 0.5) + 2 * abs(0.6 - 1.0)) / 4)
    assert metrics.top5_percent is None


def test_classes_and_confusions_are_counted() -> None:
    found = torch.tensor([0, 0, 1, 2, 2, 2])
    metrics = compute_metrics(torch.nn.functional.one_hot(found, 3).float(), torch.tensor([0, 1, 1, 0, 0, 2]))
    assert [(each.n, each.correct) for each in metrics.per_class] == [(3, 1), (2, 1), (1, 1)]
    assert metrics.confusions == ((0, 2, 2), (1, 0, 1))


def test_what_is_not_finite_counts_as_wrong_and_has_no_loss() -> None:
    logits = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [float("inf"), 0.0]])
    metrics = compute_metrics(logits, torch.tensor([0, 0, 0]))
    assert metrics.top1_percent == pytest.approx(100 / 3)
    assert metrics.loss is None


# The report's table of accuracy per parameter.
@pytest.mark.parametrize(
    ("top1", "millions", "expected"),
    [
        (89.7, 22.2, 88.739),
        (91.67, 86, 25.198),
        (93.44, 307, 7.635),
        (73.01, 3.717, 80.979),
        (70.46, 0.482, 95.436),
        (76.71, 3.168, 211.806),
        (75.145, 3.191397, 161.215),
    ],
)
def test_the_score_is_the_reports(top1: float, millions: float, expected: float) -> None:
    assert score(top1, millions) == pytest.approx(expected, abs=5e-4)
    assert score(69.99, millions) is None


def test_the_front_is_what_nothing_beats() -> None:
    assert pareto_front([(1, 50), (2, 60), (3, 55), (2, 59), (4, 60)]) == [True, True, False, False, False]
