"""The score against the report's table, the front and McNemar's test against figures worked out by hand."""

import math
from fractions import Fraction

import pytest

from cctkit.catalog.score import mcnemar_p_value, pareto_front, score

# The report's score table and its final result: top-1 in percent, size in millions, score as printed there.
REPORT = [
    (89.7, 22.2, "88.739"),
    (91.67, 86, "25.198"),
    (91.97, 86, "25.547"),
    (93.44, 307, "7.635"),
    (73.01, 3.717, "80.979"),
    (72.25, 3.19, "70.533"),
    (70.46, 0.482, "95.436"),
    (76.71, 3.168, "211.806"),
    (74.47, 3.327, "134.355"),
    (77.05, 3.76, "187.500"),
    (74.92, 3.853, "127.693"),
    (75.145, 3.191397, "161.215"),
]


@pytest.mark.parametrize(("top1", "millions", "expected"), REPORT)
def test_the_score_is_the_reports_to_three_decimals(top1: float, millions: float, expected: str) -> None:
    value = score(top1, millions)
    assert value is not None
    assert f"{value:.3f}" == expected


def test_there_is_no_score_under_seventy_percent_and_zero_at_seventy() -> None:
    assert score(69.999, 3.0) is None
    assert score(70.0, 3.0) == 0


def test_the_front_has_the_pareto_optimal_points() -> None:
    points = [(1.0, 60.0), (2.0, 70.0), (2.0, 69.0), (3.0, 70.0), (3.0, 65.0), (4.0, 71.0)]
    assert pareto_front(points) == [True, True, False, False, False, True]


def test_equal_points_are_on_the_front_together() -> None:
    assert pareto_front([(1.0, 50.0), (1.0, 50.0), (2.0, 50.0)]) == [True, True, False]
    assert pareto_front([]) == []


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (1, 8, 2 * (1 + 9) / 2**9),
        (8, 1, 2 * (1 + 9) / 2**9),
        (0, 5, 2 / 2**5),
        (3, 3, 1.0),
        (4, 5, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemars_p_value_is_the_binomial_tail_twice(only_a: int, only_b: int, expected: float) -> None:
    assert mcnemar_p_value(only_a, only_b) == pytest.approx(expected, rel=1e-12)


def test_mcnemars_p_value_is_exact_for_thousands_of_images() -> None:
    tail = sum(math.comb(2000, k) for k in range(901))
    assert mcnemar_p_value(900, 1100) == pytest.approx(float(Fraction(2 * tail, 2**2000)), rel=1e-9)
    assert mcnemar_p_value(0, 100_000) == 0.0  # 2 ** -99999, under every double
