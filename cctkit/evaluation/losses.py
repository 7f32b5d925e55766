"""Cross entropy with and without label smoothing, for training and evaluation."""

from typing import NamedTuple

import torch
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


class Losses(NamedTuple):
    """Of each image, (B,) each.

    loss: cross entropy.
    smoothed: with label smoothing.
    correct: 1 or 0; with mixup or cutmix between them.
    objective: what training minimises: `smoothed`, with the weights of the classes if there are any.
    """

    loss: Tensor
    smoothed: Tensor
    correct: Tensor
    objective: Tensor


def losses(
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    label_smoothing: float,
    class_weights: Tensor | None = None,
) -> Losses:
    """The losses of each image from logits (B, K).

    With mixup or cutmix, the target is `weight` (B,) of the label and the rest of `partner_labels`.

    class_weights: (K,), by which the loss of an image is multiplied; with mixup and cutmix each part by its own.
    """
    log_p = logits.log_softmax(dim=-1)  # (B, K)
    found = logits.argmax(dim=-1)
    own = loss = cross_entropy(log_p, labels)
    correct = (found == labels).to(loss.dtype)
    parts = [(class_weights[labels], own)] if class_weights is not None else []
    if partner_labels is not None and weight is not None:
        partner = cross_entropy(log_p, partner_labels)
        loss = weight * own + (1 - weight) * partner
        correct = weight * correct + (1 - weight) * (found == partner_labels)
        if class_weights is not None:
            parts = [(weight * class_weights[labels], own), ((1 - weight) * class_weights[partner_labels], partner)]
    mean_log_p = log_p.mean(dim=-1)  # after the cross entropies: gradients add up in this order, whose rounding runs repeat
    loss_smoothed = objective = smoothed(loss, mean_log_p, label_smoothing)
    if parts:
        objective = torch.stack([share * smoothed(part, mean_log_p, label_smoothing) for share, part in parts]).sum(dim=0)
    return Losses(loss, loss_smoothed, correct, objective)
