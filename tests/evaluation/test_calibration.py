"""Calibration against figures computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from cctkit.evaluation.calibration import BINS, calibration_error, fit_temperature, probabilities, reliability
from cctkit.evaluation.metrics import compute_metrics


def log_odds(*confidences: float) -> Tensor:
    """Logits (N, 2) whose softmax gives class 0 these probabilities."""
    return torch.tensor([[math.log(p), math.log(1 - p)] for p in confidences], dtype=torch.float64)


# Five images, in the bins (0.6, 0.667], (0.867, 0.933] and (0.933, 1]: confidence and whether class 0 is right.
TABLE = [(0.62, 1), (0.64, 0), (0.66, 0), (0.9, 1), (0.96, 1)]


def table() -> tuple[Tensor, Tensor]:
    return log_odds(*(p for p, _ in TABLE)), torch.tensor([1 - right for _, right in TABLE])


def test_the_bins_of_a_small_table_are_those_counted_by_hand() -> None:
    bins = reliability(*table())
    assert len(bins) == BINS == 15
    assert [each.low for each in bins][::7] == pytest.approx([0, 7 / 15, 14 / 15])
    assert [each.high for each in bins][::7] == pytest.approx([1 / 15, 8 / 15, 1])
    filled = {b: each for b, each in enumerate(bins) if each.num_images}
    assert {b: each.num_images for b, each in filled.items()} == {9: 3, 13: 1, 14: 1}
    assert [each.mean_confidence for each in filled.values()] == pytest.approx([0.64, 0.9, 0.96])
    assert [each.accuracy for each in filled.values()] == pytest.approx([1 / 3, 1, 1])
    assert all((each.mean_confidence, each.accuracy) == (None, None) for each in bins if not each.num_images)


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    # (3 * |1/3 - 0.64| + 0.1 + 0.04) / 5
    assert compute_metrics(*table()).ece == pytest.approx(0.212)
    bins = reliability(*table())
    gaps = [n * abs(a - c) for n, a, c in ((b.num_images, b.accuracy or 0, b.mean_confidence or 0) for b in bins)]
    assert sum(gaps) / 5 == pytest.approx(0.212)


def test_the_temperature_moves_images_to_other_bins_and_changes_no_accuracy() -> None:
    # Halved log-odds: a confidence p becomes 1 / (1 + sqrt((1 - p) / p)). 0.62 to 0.66 become 0.56 to 0.58, 0.9 becomes 0.75.
    bins = reliability(*table(), temperature=2.0)
    filled = {b: each for b, each in enumerate(bins) if each.num_images}
    assert {b: each.num_images for b, each in filled.items()} == {8: 3, 11: 1, 12: 1}
    assert [filled[11].mean_confidence, filled[12].mean_confidence] == pytest.approx([0.75, 1 / (1 + math.sqrt(1 / 24))])
    assert [each.accuracy for each in filled.values()] == pytest.approx([1 / 3, 1, 1])


def test_images_that_are_not_finite_are_in_no_bin() -> None:
    logits, labels = table()
    logits[0, 0] = math.nan
    logits[4, 1] = -math.inf
    bins = reliability(logits, labels)
    assert {b: each.num_images for b, each in enumerate(bins) if each.num_images} == {9: 2, 13: 1}
    assert all(each.num_images == 0 for each in reliability(torch.full((3, 2), math.nan), torch.zeros(3, dtype=torch.int64)))


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it() -> None:
    # Given directly: no softmax gives exactly 0.6 = 9/15 on every machine. With 0.55 in (8/15, 9/15]: |0.6 + 0.55 - 1| / 2.
    confidence = torch.tensor([0.6, 0.55], dtype=torch.float64)
    assert calibration_error(confidence, torch.tensor([True, False])).item() == pytest.approx(0.075)


def test_without_a_temperature_probabilities_are_the_softmax_to_the_bit_and_with_one_of_scaled_logits() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(probabilities(logits), logits.softmax(dim=1))
    # log-odds of 2 between two classes, at a temperature of 4, are 0.5.
    found = probabilities(torch.tensor([[2.0, 0.0]]), 4.0)
    assert found.tolist() == [pytest.approx([1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))])]


@pytest.mark.parametrize(("margin", "right", "images"), [(2.0, 3, 4), (0.5, 7, 10), (20.0, 99, 100)])
def test_of_two_classes_with_one_margin_the_temperature_is_known_in_closed_form(margin: float, right: int, images: int) -> None:
    # The cross entropy is least where the sigmoid of margin / T is the fraction of right images: T = margin / ln(odds).
    logits = torch.tensor([[margin, 0.0]]).expand(images, 2)
    labels = (torch.arange(images) >= right).long()
    assert fit_temperature(logits, labels) == pytest.approx(margin / math.log(right / (images - right)), rel=5e-6)


@pytest.mark.parametrize("factor", [0.02, 0.4, 1.0, 2.5, 60.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_calibrated_images_multiplied_by_a_factor_give_that_factor_back(factor: float, dtype: torch.dtype) -> None:
    # Ten images with probabilities 0.5, 0.3 and 0.2 and as many of each class; another twenty of which 0.9 are sure and right.
    log_p = torch.cat([torch.tensor([[0.5, 0.3, 0.2]]).expand(10, 3), torch.tensor([[0.05, 0.9, 0.05]]).expand(20, 3)]).log()
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2 + [0] + [1] * 18 + [2])
    assert fit_temperature((factor * log_p + 7).to(dtype), labels) == pytest.approx(factor, rel=5e-5)


def test_the_temperature_is_no_worse_than_any_other_and_leaves_every_class() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(600, 20, generator=generator)
    labels = torch.where(torch.arange(600) % 3 > 0, logits.argmax(dim=1), torch.randint(20, (600,), generator=generator))
    found = fit_temperature(logits, labels)
    assert found is not None
    losses = {
        t: torch.nn.functional.cross_entropy(logits.double() / t, labels).item()
        for t in (0.999 * found, found, 1.001 * found, 1)
    }
    assert min(losses, key=losses.__getitem__) == found
    assert torch.equal(probabilities(logits, found).argmax(dim=1), logits.argmax(dim=1))
    assert found == fit_temperature(logits.flip(0), labels.flip(0))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([[3.0, 0.0], [0.0, 2.0]], [0, 1]),  # every image is right: the smaller, the better
        ([[1000.0, 0.0], [0.0, 1000.0]], [0, 1]),
        ([[3.0, 0.0], [0.0, 2.0]], [1, 0]),  # every image is wrong: the larger, the better
        ([[1.0, 1.0], [5.0, 5.0]], [1, 0]),  # it does nothing
        ([[300.0, 0.0]] * 4, [0, 0, 0, 1]),  # 300 / ln 3 is beyond 100
        ([[0.0, math.nan], [0.0, 1.0]], [0, 0]),
        ([[0.0, math.inf], [0.0, 1.0]], [0, 0]),
    ],
    ids=str,
)
def test_images_that_determine_no_temperature_give_none(logits: list[list[float]], labels: list[int]) -> None:
    assert fit_temperature(torch.tensor(logits), torch.tensor(labels)) is None


def test_one_image_whose_class_is_ruled_out_is_no_reason_to_hang() -> None:
    logits = torch.tensor([[2.0, 0.0, -math.inf]] * 3 + [[0.0, 1.0, 3e38]])
    assert fit_temperature(logits, torch.tensor([0, 0, 1, 2])) is None


def test_images_that_are_all_right_give_none_whatever_the_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        logits = 30 * torch.randn(40, 10, generator=generator) + 5
        assert fit_temperature(logits, logits.argmax(dim=1)) is None
