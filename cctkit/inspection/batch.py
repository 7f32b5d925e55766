"""The first batch of a run as augmentation feeds it to the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.augment import Batch
from cctkit.data.epoch.loader import train_batches
from cctkit.data.splits import Dataset
from cctkit.inspection.pictures import Picture, picture
from cctkit.training.loop import plan_of

_SHOWN = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """An image as the model gets it. label: its class, or both of a mixed image with their weights."""

    image: Picture
    label: str


def first_batch(config: TrainConfig, dataset: Dataset) -> Sequence[Fed]:
    """The first images of the first epoch, augmented and mixed as in training."""
    dataset = dataset.for_training(config.augment.crop)
    batches = train_batches(
        dataset.train,
        plan=plan_of(config, dataset, 0),
        preprocess=dataset.preprocess,
        device="cpu",
        chunk_images=config.batch_size,
    )
    batch = next(batches)
    shape = (1, 3, 1, 1)
    mean, std = (torch.tensor(value).view(shape) for value in (dataset.mean, dataset.std))
    pixels = ((batch.images[:_SHOWN] * std + mean) * 255).round().clamp(0, 255).byte()
    labels = _labels(batch, dataset.class_names)
    return [Fed(image=picture(image), label=label) for image, label in zip(pixels, labels, strict=False)]


def _labels(batch: Batch, names: Sequence[str]) -> list[str]:
    own = [names[label] for label in batch.labels.tolist()]
    if batch.partner_labels is None or batch.lam is None:
        return own
    partners = [names[label] for label in batch.partner_labels.tolist()]
    mixed = zip(own, partners, batch.lam.tolist(), strict=True)
    return [one if one == two or lam == 1 else f"{lam:.2f} {one} + {1 - lam:.2f} {two}" for one, two, lam in mixed]
