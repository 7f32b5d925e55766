"""The report's score, accuracy per parameter, and the Pareto front that it is blind to."""

from collections.abc import Sequence

THRESHOLD_PERCENT = 70.0


def score(top1_percent: float, params_millions: float) -> float | None:
    """`100 * (top1 - 70) / millions of parameters`, the report's formula for CIFAR-100; None under 70%."""
    if top1_percent < THRESHOLD_PERCENT:
        return None
    return 100 * (top1_percent - THRESHOLD_PERCENT) / params_millions


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (params, top1): whether no other point has at most its parameters and more accuracy, or fewer for as much."""

    def beaten(params: float, top1: float) -> bool:
        return any(p <= params and t >= top1 and (p, t) != (params, top1) for p, t in points)

    return [not beaten(*point) for point in points]
