"""The report's score, the Pareto front, and McNemar's test."""

import math
from collections.abc import Sequence

THRESHOLD_PERCENT = 70.0


def score(top1_percent: float, params_millions: float) -> float | None:
    """`100 * (top1 - 70) / millions of parameters`, the report's formula for CIFAR-100; None under 70%."""
    if top1_percent < THRESHOLD_PERCENT:
        return None
    return 100 * (top1_percent - THRESHOLD_PERCENT) / params_millions


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (params, top1) is Pareto-optimal: no other point is at least as good in both and better in one."""

    def dominated(params: float, top1: float) -> bool:
        return any(p <= params and t >= top1 and (p, t) != (params, top1) for p, t in points)

    return [not dominated(*point) for point in points]


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """Exact two-sided p-value of McNemar's test, in (0, 1].

    only_a: number of images that only the first model classifies correctly.
    only_b: number of images that only the second model classifies correctly.
    Source: McNemar 1947, Psychometrika 12, 153-157; exact as in Edwards 1948: binomial with n = only_a + only_b and 1/2.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    log_last = math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2)
    total = term = 1.0  # the tail C(n, 0) + ... + C(n, fewer), over its last term
    for k in range(fewer, 0, -1):
        term *= k / (n - k + 1)
        total += term
        if term < total * 1e-17:
            break
    return min(1.0, 2 * math.exp(log_last) * total)
