"""Coverage and accuracy of the images whose class is probable enough."""

from typing import Any

from torch import Tensor

from cctkit.evaluation.calibration import probabilities
from cctkit.evaluation.intervals import wilson_interval
from cctkit.evaluation.metrics import is_correct


def coverage_figures(logits: Tensor, labels: Tensor, *, min_confidence: float, temperature: float | None) -> dict[str, Any]:
    """The images whose class has at least this probability: their percentage (coverage) and accuracy, and that of the others.

    They are those to which `predict --min-confidence` gives a class. All intervals are 95% Wilson intervals.

    logits: float32 (N, K), for N of at least 1; labels: int64 (N,).
    temperature: see `probabilities`.
    """
    confidence = probabilities(logits, temperature).amax(dim=1).double()  # computed in float32, as `predict` does
    chosen = (confidence >= min_confidence) & logits.isfinite().all(dim=1)
    correct = is_correct(logits, labels)
    number = int(chosen.sum())
    return {
        "min_confidence": min_confidence,
        **_share("coverage", number, len(labels)),
        "num_images": number,
        **_share("top1", int(correct[chosen].sum()), number),
        "left": {
            "num_images": len(labels) - number,
            **_share("top1", int(correct[~chosen].sum()), len(labels) - number),
        },
    }


def _share(name: str, part: int, total: int) -> dict[str, Any]:
    """A proportion and its interval in percent; None of nothing."""
    if total == 0:
        return {f"{name}_percent": None, f"{name}_interval_percent": None}
    return {
        f"{name}_percent": 100 * part / total,
        f"{name}_interval_percent": [100 * limit for limit in wilson_interval(part, total)],
    }
