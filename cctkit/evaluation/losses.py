"""Cross entropy with and without label smoothing, for training and evaluation."""

from torch import Tensor


def cross_entropy(log_p: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of each image in nats, (B,), from log-probabilities (B, K) and labels (B,)."""
    return -log_p.gather(1, labels[:, None]).squeeze(1)


def smoothed(loss: Tensor, mean_log_p: Tensor, label_smoothing: float) -> Tensor:
    """Cross entropy with label smoothing (Szegedy et al. 2016, section 7), of one image or as a mean over images.

    loss: cross entropy without smoothing.
    mean_log_p: mean of the log-probabilities over the classes.
    """
    return (1 - label_smoothing) * loss - label_smoothing * mean_log_p


def losses(
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy, cross entropy with label smoothing and correctness of each image, (B,) each, from logits (B, K).

    With mixup or cutmix, the target is `weight` (B,) of the label and the rest of `partner_labels`.
    """
    log_p = logits.log_softmax(dim=-1)  # (B, K)
    found = logits.argmax(dim=-1)
    loss = cross_entropy(log_p, labels)
    correct = (found == labels).to(loss.dtype)
    if partner_labels is not None and weight is not None:
        loss = weight * loss + (1 - weight) * cross_entropy(log_p, partner_labels)
        correct = weight * correct + (1 - weight) * (found == partner_labels)
    return loss, smoothed(loss, log_p.mean(dim=-1), label_smoothing), correct
