"""The paired difference that the benchmark of imbalanced classes reports, against arithmetic by hand."""

import math

import numpy as np
import pytest

from benchmarks.imbalance import class_sizes, paired_difference


def test_class_sizes_fall_by_equal_ratios_to_the_imbalance() -> None:
    assert class_sizes(500, 10, 50) == [500, 324, 210, 136, 88, 57, 37, 24, 15, 10]
    assert class_sizes(800, 4, 8) == [800, 400, 200, 100]


def test_the_difference_is_of_the_balanced_accuracies_and_its_intervals_are_over_images_and_seeds() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    plain = [np.array([1, 1, 0, 0, 0, 0], dtype=bool), np.array([1, 1, 1, 0, 1, 0], dtype=bool)]
    way = [np.array([1, 1, 1, 0, 1, 0], dtype=bool), np.array([1, 1, 1, 1, 1, 1], dtype=bool)]
    found = paired_difference(labels, plain, way)
    # Seed 0: (3/4 + 1/2) / 2 - (2/4 + 0) / 2 = 37.5%. Seed 1: 1 - (3/4 + 1/2) / 2 = 37.5%.
    assert found["by_seed"] == pytest.approx([37.5, 37.5])
    assert found["percent"] == pytest.approx(37.5)
    assert found["over_seeds"] == pytest.approx([37.5, 37.5])
    # The images' differences, averaged over the seeds: 0, 0, 1/2, 1/2 and 1/2, 1/2. Their variances: 1/12 and 0.
    half = 100 * 1.96 * math.sqrt(1 / 12 / 4) / 2
    assert found["over_images"] == pytest.approx([37.5 - half, 37.5 + half], abs=0.01)


def test_the_interval_over_seeds_is_students() -> None:
    labels, plain = np.array([0, 0, 1, 1]), [np.zeros(4, dtype=bool)] * 3
    way = [np.array(each, dtype=bool) for each in ([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0])]
    found = paired_difference(labels, plain, way)
    assert found["by_seed"] == pytest.approx([25, 50, 75])
    spread = 4.303 * 25 / math.sqrt(3)
    assert found["over_seeds"] == pytest.approx([50 - spread, 50 + spread])
    assert paired_difference(labels, plain[:1], way[:1])["over_seeds"] is None
