"""Loss weights and balanced sampling, from the number of training images per class."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def class_weights(labels: Array, *, classes: int, power: float) -> Array:
    """The loss weight of each class, its number of images to the power of `-power`, scaled to a mean of 1 over the images.

    With a power of 1 as `compute_class_weight("balanced")` in scikit-learn: n / (K * images of the class).

    labels: int64 (n,). Returns float32 (K,), 0 for a class without images.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -float(power), 0.0)
    return np.asarray(weights * len(labels) / (weights * counts).sum(), dtype=np.float32)


def balanced_order(labels: Array, *, power: float, generator: np.random.Generator) -> Array:
    """The images of an epoch, int32 (n,): the share of a class with m images is proportional to m^(1 - power).

    With a power of 1 every class comes equally often. The number of positions of a class is rounded up or down at random.
    Within a class every image comes equally often, or once more.

    labels: int64 (n,).
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shares = counts ** (1 - float(power))
    edges = np.floor(np.cumsum(shares / shares.sum()) * len(labels) + generator.random()).astype(np.int64)
    edges[-1] = len(labels)
    quotas = np.diff(edges, prepend=0)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    parts = [_repeated(images, quota, generator) for images, quota in zip(members, quotas.tolist(), strict=True)]
    order = np.concatenate(parts).astype(np.int32)
    generator.shuffle(order)
    return order


def _repeated(images: Array, number: int, generator: np.random.Generator) -> Array:
    """`number` of `images`: all of them as often as they fit, and a random part of them once more."""
    times, rest = divmod(number, len(images))
    return np.concatenate([np.tile(images, times), generator.permutation(images)[:rest]])
