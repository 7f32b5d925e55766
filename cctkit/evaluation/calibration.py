"""How well probabilities fit: calibration error, the bins of a reliability diagram, and the temperature that improves them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15
"""As in Guo et al. 2017, On calibration of modern neural networks, table 1."""
_TEMPERATURES = (0.01, 100.0)
_MOST_STEPS = 100
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The images whose confidence is above `low` and at most `high`.

    mean_confidence, accuracy: fractions; None without images.
    """

    low: float
    high: float
    num_images: int
    mean_confidence: float | None
    accuracy: float | None


def probabilities(logits: Tensor, temperature: float | None = None) -> Tensor:
    """The softmax of `logits` (N, K), divided by the temperature if there is one."""
    return (logits if temperature is None else logits / temperature).softmax(dim=1)


def calibration_error(confidence: Tensor, correct: Tensor) -> Tensor:
    """The expected calibration error (ECE), a fraction: the mean over images of the gap between accuracy and mean confidence in
    their bin. There are 15 bins of equal width, (b / 15, (b + 1) / 15].

    Guo et al. 2017, On calibration of modern neural networks, equation 3; first in Naeini, Cooper and Hauskrecht 2015,
    Obtaining well calibrated probabilities using Bayesian binning.

    confidence: the probability of the predicted class, float64 (N,); correct: bool (N,).
    """
    gap = torch.zeros(BINS, dtype=torch.float64).index_add(0, _bin_of(confidence), confidence - correct.double())
    return gap.abs().sum() / len(confidence)


def reliability(logits: Tensor, labels: Tensor, *, temperature: float | None = None) -> tuple[ReliabilityBin, ...]:
    """The bins of a reliability diagram, those of `calibration_error`: 15, in the order of the confidence.

    Rows that are not finite have no confidence and are left out.

    logits: (N, K); labels: int64 (N,).
    temperature: of the weights, see `WeightsInfo.temperature`; None: the probabilities are the softmax of the logits.
    """
    finite = logits.isfinite().all(dim=1)
    logits, labels = logits[finite].detach().cpu().double(), labels.cpu()[finite.cpu()]
    confidence = probabilities(logits, temperature).amax(dim=1)  # (N,)
    correct = (logits.argmax(dim=1) == labels).double()
    bins = _bin_of(confidence)
    number = torch.bincount(bins, minlength=BINS)
    sums = (torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, value) for value in (confidence, correct))
    means = [(total / number).tolist() for total in sums]
    return tuple(
        ReliabilityBin(
            low=b / BINS,
            high=(b + 1) / BINS,
            num_images=n,
            mean_confidence=mean if n else None,
            accuracy=share if n else None,
        )
        for b, (n, mean, share) in enumerate(zip(number.tolist(), *means, strict=True))
    )


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature by which to divide logits (N, K), so that the cross entropy with the labels, int64 (N,), is smallest.

    Guo et al. 2017, On calibration of modern neural networks, section 4.2. The cross entropy is convex in 1 / temperature, so
    Newton's method between two bounds finds its only minimum.

    Returns: six significant digits, which the number of threads does not change; None if the minimum is not between 0.01 and
        100, as if every image is right or the logits say nothing, or if a logit is not finite.
    """
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    logits = logits - logits.amax(dim=1, keepdim=True)  # the largest becomes 0
    own = logits.gather(1, labels[:, None]).squeeze(1)  # (N,)

    def derivatives(scale: float) -> tuple[float, float]:
        """The first two derivatives of the cross entropy of scale * logits: mean and variance under the probabilities."""
        p = (scale * logits).softmax(dim=1)
        mean = (p * logits).sum(dim=1)
        variance = (p * (logits - mean[:, None]).square()).sum(dim=1)
        return float((mean - own).mean()), float(variance.mean())

    high, low = (1 / limit for limit in _TEMPERATURES)
    if not derivatives(low)[0] < 0 < derivatives(high)[0]:
        return None
    scale = 1.0
    for _ in range(_MOST_STEPS):
        slope, curvature = derivatives(scale)
        low, high = (scale, high) if slope < 0 else (low, scale)
        newton = scale - slope / curvature if curvature else high
        nearer = newton if low < newton < high else math.sqrt(low * high)
        step, scale = abs(nearer - scale), nearer
        if step < 10.0**-_DIGITS * scale:  # convergence is quadratic: the error is far smaller than the last step
            break
    return float(f"{1 / scale:.{_DIGITS}g}")


def _bin_of(confidence: Tensor) -> Tensor:
    """The number of each confidence's bin, int64 (N,)."""
    return (confidence * BINS).ceil().sub(1).clamp(0, BINS - 1).nan_to_num().long()
