"""The figures of an evaluation against torch, the literature and arithmetic by hand."""

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cctkit.evaluation.class_metrics import ClassMetrics
from cctkit.evaluation.intervals import wilson_interval
from cctkit.evaluation.metrics import compute_metrics

NAN, INF = math.nan, math.inf


def random_case(images: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images * 1000 + classes)
    logits = 3 * torch.randn(images, classes, generator=generator)
    return logits, torch.randint(classes, (images,), generator=generator)


def log_odds(*confidences: float) -> Tensor:
    """Logits (N, 2) whose softmax gives class 0 these probabilities."""
    return torch.tensor([[math.log(p), math.log(1 - p)] for p in confidences], dtype=torch.float64)


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (1, 100), (7, 2), (257, 10), (64, 1000)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_both_losses_are_those_of_torch(images: int, classes: int, smoothing: float) -> None:
    logits, labels = random_case(images, classes)
    metrics = compute_metrics(logits, labels, label_smoothing=smoothing)
    plain = functional.cross_entropy(logits.double(), labels)
    smoothed = functional.cross_entropy(logits.double(), labels, label_smoothing=smoothing)
    assert metrics.loss == pytest.approx(plain.item(), rel=1e-12)
    assert metrics.loss_smoothed == pytest.approx(smoothed.item(), rel=1e-12)


def test_the_loss_is_computed_in_float64() -> None:
    # ln(1 + e), of which float32 holds seven digits.
    logits = torch.tensor([[1.0, 0.0]]).expand(1000, 2)
    assert compute_metrics(logits, torch.ones(1000, dtype=torch.int64)).loss == pytest.approx(1.313261687518223, rel=1e-12)


def test_top1_and_top5_count_as_sorting_does() -> None:
    logits, labels = random_case(500, 20)
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    ranks = [sorted(row, reverse=True).index(row[label]) for row, label in rows]
    metrics = compute_metrics(logits, labels)
    assert metrics.top1_percent == pytest.approx(100 * sum(rank == 0 for rank in ranks) / 500)
    assert metrics.top5_percent == pytest.approx(100 * sum(rank < 5 for rank in ranks) / 500)


def test_equal_logits_rank_in_class_order_as_argmax_does() -> None:
    metrics = compute_metrics(torch.zeros(8, 8), torch.arange(8))
    assert metrics.top1_percent == 12.5  # class 0 alone is found
    assert metrics.top5_percent == 62.5  # classes 0 to 4
    assert [each.correct for each in metrics.per_class] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert metrics.confusions == tuple((true, 0, 1) for true in range(1, 8))


@pytest.mark.parametrize(("classes", "known"), [(2, False), (5, False), (6, True), (100, True)])
def test_top5_is_given_only_where_it_can_be_wrong(classes: int, known: bool) -> None:
    metrics = compute_metrics(*random_case(20, classes))
    assert (metrics.top5_percent is not None) == known


# Newcombe 1998, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_the_interval_is_the_published_score_interval(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_solves_the_score_equation() -> None:
    # Wilson's limits are where |81/100 - p| is 1.96 standard errors *at p*: (p - share)^2 = z^2 p (1 - p) / n.
    low, high = wilson_interval(81, 100)
    assert (low, high) == pytest.approx((0.7222, 0.8749), abs=5e-5)
    for p in (low, high):
        assert abs(0.81 - p) / math.sqrt(p * (1 - p) / 100) == pytest.approx(1.959963984540054, rel=1e-12)


@pytest.mark.parametrize("total", [1, 3, 6, 7, 1797, 10_000])
def test_the_interval_ends_exactly_at_nothing_and_all(total: int) -> None:
    assert wilson_interval(0, total)[0] == 0.0
    assert wilson_interval(total, total)[1] == 1.0
    assert wilson_interval(total, total)[0] == pytest.approx(1 - wilson_interval(0, total)[1])


def test_the_interval_is_reported_in_percent() -> None:
    metrics = compute_metrics(log_odds(*[0.9] * 100), torch.tensor([0] * 81 + [1] * 19))
    assert metrics.top1_percent == 81.0
    assert metrics.top1_interval_percent == pytest.approx((72.22, 87.49), abs=0.005)


def test_calibration_error_of_one_bin_is_the_gap() -> None:
    # Confidence 0.9 four times, three right: |0.9 - 0.75|.
    assert compute_metrics(log_odds(0.9, 0.9, 0.9, 0.9), torch.tensor([0, 0, 0, 1])).ece == pytest.approx(0.15)


def test_within_a_bin_opposite_errors_cancel_and_across_bins_they_add_up() -> None:
    labels = torch.tensor([0, 1])
    # 0.61 (right) and 0.65 (wrong) share the bin (0.6, 0.667]: |0.61 + 0.65 - 1| / 2.
    assert compute_metrics(log_odds(0.61, 0.65), labels).ece == pytest.approx(0.13)
    # 0.59 (right) lies below the edge 9/15 = 0.6, 0.65 (wrong) above: (0.41 + 0.65) / 2.
    assert compute_metrics(log_odds(0.59, 0.65), labels).ece == pytest.approx(0.53)


def test_a_confidence_of_one_belongs_to_the_last_bin() -> None:
    # It (right) shares (14/15, 1] with 0.95 (wrong): |1 + 0.95 - 1| / 2.
    logits = torch.cat([torch.tensor([[1000.0, 0.0]], dtype=torch.float64), log_odds(0.95)])
    assert compute_metrics(logits, torch.tensor([0, 1])).ece == pytest.approx(0.475)


def test_calibration_error_agrees_with_a_loop_over_the_bins() -> None:
    logits, labels = random_case(3000, 10)
    logits, labels = logits / 3, torch.where(torch.arange(3000) % 2 == 0, logits.argmax(1), labels)
    confidence, found = logits.double().softmax(1).max(1)
    expected = 0.0
    for b in range(15):
        chosen = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if chosen.any():
            accuracy = (found[chosen] == labels[chosen]).double().mean()
            expected += (chosen.double().mean() * (accuracy - confidence[chosen].mean()).abs()).item()
    assert expected > 0.05
    assert compute_metrics(logits, labels).ece == pytest.approx(expected, rel=1e-9)


def test_a_sure_and_right_model_has_no_calibration_error() -> None:
    metrics = compute_metrics(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 1]))
    assert (metrics.ece, metrics.loss, metrics.top1_percent) == (0.0, 0.0, 100.0)


def test_classes_are_in_order_and_one_without_images_is_there() -> None:
    metrics = compute_metrics(torch.eye(4)[[0, 0, 1, 3, 3, 3]], torch.tensor([0, 1, 1, 3, 3, 0]))
    assert metrics.per_class == (
        ClassMetrics(index=0, n=2, correct=1, predicted=2),
        ClassMetrics(index=1, n=2, correct=1, predicted=1),
        ClassMetrics(index=2, n=0, correct=0, predicted=0),
        ClassMetrics(index=3, n=2, correct=2, predicted=3),
    )


def test_confusions_are_directed_and_the_most_frequent_come_first() -> None:
    pairs = [(2, 0)] * 3 + [(0, 2)] * 2 + [(1, 0)] * 2 + [(1, 1)] * 5 + [(2, 1)]
    metrics = compute_metrics(torch.eye(3)[[found for _, found in pairs]], torch.tensor([true for true, _ in pairs]))
    assert metrics.confusions == ((2, 0, 3), (0, 2, 2), (1, 0, 2), (2, 1, 1))


def test_at_most_ten_confusions_are_kept() -> None:
    assert len(compute_metrics(torch.eye(13)[[0] * 12], torch.arange(1, 13)).confusions) == 10


@pytest.mark.parametrize("bad", [[NAN] * 6, [INF, 0, 0, 0, 0, 0], [NAN, 9, 0, 0, 0, 0], [INF] * 6, [-INF] * 6])
@pytest.mark.parametrize("label", [0, 1])
def test_a_row_that_is_not_finite_counts_as_wrong_and_makes_the_means_null(bad: list[float], label: int) -> None:
    logits = torch.tensor([bad, [0, 5, 0, 0, 0, 0], [0, 0, 5, 0, 0, 0], [0, 0, 5, 0, 0, 0]], dtype=torch.float32)
    metrics = compute_metrics(logits, torch.tensor([label, 1, 2, 3]), label_smoothing=0.1)
    assert metrics.top1_percent == 50.0
    assert metrics.top5_percent == 75.0
    assert (metrics.loss, metrics.loss_smoothed, metrics.ece) == (None, None, None)
    assert metrics.per_class[label].correct == label
    assert metrics.confusions == ((3, 2, 1),)


def test_a_class_ruled_out_beside_the_label_leaves_the_loss_finite() -> None:
    metrics = compute_metrics(torch.tensor([[0.0, 0.0, -INF]]), torch.tensor([0]))
    assert metrics.loss == metrics.loss_smoothed == pytest.approx(math.log(2))
    assert metrics.top1_percent == 0.0


def test_the_largest_logits_do_not_overflow() -> None:
    metrics = compute_metrics(torch.tensor([[3e38, -3e38, 0.0]]), torch.tensor([2]))
    assert metrics.loss == pytest.approx(3e38, rel=1e-6)
    assert metrics.ece == 1.0


def test_one_image_of_two_classes_is_enough() -> None:
    metrics = compute_metrics(torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]))
    assert (metrics.num_images, metrics.top1_percent, metrics.top5_percent) == (1, 100.0, None)
    assert metrics.loss == pytest.approx(math.log(4 / 3), rel=1e-6)
    assert metrics.ece == pytest.approx(0.25, rel=1e-6)
    assert metrics.top1_interval_percent == pytest.approx((20.65, 100.0), abs=0.005)  # 1 / (1 + z^2)
    assert metrics.confusions == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_any_float_type_is_taken_at_its_value(dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.5, 0.25]])  # exact in every type
    assert compute_metrics(logits.to(dtype), torch.tensor([0, 2])) == compute_metrics(logits, torch.tensor([0, 2]))


def test_the_arguments_are_left_as_they_are() -> None:
    logits, labels = random_case(30, 10)
    logits.requires_grad_()
    before = logits.detach().clone(), labels.clone()
    compute_metrics(logits, labels)
    assert torch.equal(logits.detach(), before[0])
    assert torch.equal(labels, before[1])


def test_every_figure_is_a_plain_number_that_json_writes() -> None:
    metrics = compute_metrics(*random_case(50, 10))
    assert json.loads(json.dumps(dataclasses.asdict(metrics), allow_nan=False))["num_images"] == 50


def test_the_order_of_the_images_does_not_matter() -> None:
    logits, labels = random_case(100, 10)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    one, other = compute_metrics(logits, labels), compute_metrics(logits[order], labels[order])
    assert one.loss == pytest.approx(other.loss, rel=1e-12)
    assert one.ece == pytest.approx(other.ece, rel=1e-12)
    assert (one.top1_percent, one.top5_percent) == (other.top1_percent, other.top5_percent)
    assert (one.per_class, one.confusions) == (other.per_class, other.confusions)
