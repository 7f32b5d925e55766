"""95% confidence intervals of proportions, of their mean, and of any figure of an evaluation (bootstrap)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile
_RESAMPLES = 1000


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95% score interval of a proportion, as fractions (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212)."""
    share, z2 = correct / total, _Z95**2
    centre = share + z2 / (2 * total)
    spread = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    low, high = ((centre + side * spread) / (1 + z2 / total) for side in (-1, 1))
    return 0.0 if correct == 0 else low, 1.0 if correct == total else high  # exactly, without rounding error


def mean_interval(correct: Array, total: Array) -> tuple[float, float]:
    """The 95% interval of the unweighted mean of independent proportions, as fractions, from Wilson's intervals of each.

    Zou, Huang and Zhang 2009, A note on confidence interval estimation for a linear function of binomial proportions,
    Computational Statistics & Data Analysis 53, 1080-1085.

    correct, total: int (k,), total at least 1.
    """
    shares = correct / total
    lows, highs = np.array([wilson_interval(int(c), int(n)) for c, n in zip(correct, total, strict=True)]).T
    below, above = (math.sqrt(float(np.square(shares - limits).sum())) / len(shares) for limits in (lows, highs))
    mean = float(shares.mean())
    return mean - below, mean + above


def bootstrap_interval(statistic: Callable[[Array], float], number: int) -> tuple[float, float] | None:
    """The 95% bootstrap interval over `number` images of a statistic between 0 and 1, from 1000 resamples with a fixed seed.

    The normal approximation with the bootstrap's bias and standard deviation (Davison and Hinkley 1997, Bootstrap methods and
    their application, section 5.2; `boot.ci(type = "norm")` in R), limited to 0 and 1. Percentiles of the resamples would
    cover a macro F1 too rarely, because a resample leaves out images of small classes.

    statistic: of the images at these positions, int64 (n,), drawn with replacement.

    None if all resamples give the same value, as if every image is right: a bootstrap then says nothing.
    """
    generator = np.random.default_rng(0)
    values = [statistic(generator.integers(number, size=number)) for _ in range(_RESAMPLES)]
    if min(values) == max(values):
        return None
    centre, half = 2 * statistic(np.arange(number)) - float(np.mean(values)), _Z95 * float(np.std(values, ddof=1))
    return max(0.0, centre - half), min(1.0, centre + half)
