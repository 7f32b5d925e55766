"""Coverage and accuracy above a confidence, by hand."""

import math

import pytest
import torch

from cctkit.evaluation.coverage import coverage_figures

# Class 0 with probabilities 0.9, 0.8, 0.7 and 0.6; the second image and the last are of class 1.
LOGITS = torch.tensor([[math.log(p), math.log(1 - p)] for p in (0.9, 0.8, 0.7, 0.6)])
LABELS = torch.tensor([0, 1, 0, 1])


def test_the_figures_of_four_images_are_those_counted_by_hand() -> None:
    found = coverage_figures(LOGITS, LABELS, min_confidence=0.65, temperature=None)
    left = found.pop("left")
    assert (found["min_confidence"], found["num_images"], left["num_images"]) == (0.65, 3, 1)
    assert (found["coverage_percent"], found["top1_percent"], left["top1_percent"]) == (75.0, pytest.approx(200 / 3), 0.0)
    # Wilson's interval of 3 of 4, of 2 of 3 and of 0 of 1: R's prop.test(x, n, correct = FALSE).
    assert found["coverage_interval_percent"] == pytest.approx([30.06, 95.44], abs=0.005)
    assert found["top1_interval_percent"] == pytest.approx([20.77, 93.85], abs=0.005)
    assert left["top1_interval_percent"] == pytest.approx([0, 79.35], abs=0.005)


def test_the_temperature_moves_images_across_the_limit() -> None:
    # At a temperature of 2 the probabilities become 0.75, 0.67, 0.60 and 0.55.
    found = coverage_figures(LOGITS, LABELS, min_confidence=0.65, temperature=2.0)
    assert (found["num_images"], found["top1_percent"], found["left"]["top1_percent"]) == (2, 50.0, 50.0)


def test_a_confidence_equal_to_the_limit_is_enough_and_an_image_that_is_not_finite_never() -> None:
    even = torch.zeros(2, 2)
    assert coverage_figures(even, LABELS[:2], min_confidence=0.5, temperature=None)["num_images"] == 2
    above = 0.5 + 1e-12  # in float32 0.5
    assert coverage_figures(even, LABELS[:2], min_confidence=above, temperature=None)["num_images"] == 0
    bad = torch.tensor([[0.0, math.nan], [5.0, -math.inf], [math.inf, 0.0]])
    found = coverage_figures(bad, torch.zeros(3, dtype=torch.int64), min_confidence=0.0, temperature=None)
    assert (found["num_images"], found["coverage_percent"], found["top1_percent"]) == (0, 0.0, None)
    assert (found["top1_interval_percent"], found["left"]["num_images"], found["left"]["top1_percent"]) == (None, 3, 0.0)


def test_with_none_left_their_accuracy_is_unknown() -> None:
    left = coverage_figures(LOGITS, LABELS, min_confidence=0.0, temperature=None)["left"]
    assert left == {"num_images": 0, "top1_percent": None, "top1_interval_percent": None}
