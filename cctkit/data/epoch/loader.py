"""Make batches on the device from a split and a plan; chunks of images are augmented ahead, here or in workers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cctkit.data.epoch.augment import Batch, augment, normalize_and_mix
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.epoch.policies import operators
from cctkit.data.preprocess import Preprocess
from cctkit.data.reading import Rows, images_at_once, read_ahead
from cctkit.data.transfer import to_device

CHUNK_IMAGES = 4096


class ImageSource(Protocol):
    """What the loader needs of a `data.splits.Split`."""

    @property
    def labels(self) -> Rows: ...

    def take(self, positions: Rows, /) -> Tensor: ...


def train_batches(
    split: ImageSource,
    *,
    plan: EpochPlan,
    preprocess: Preprocess,
    device: str,
    start_step: int = 0,
    workers: int = 0,
    channels_last: bool = True,
    chunk_images: int = CHUNK_IMAGES,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """The batches of an epoch from `start_step` on; they do not depend on the chunk size and the number of workers.

    A chunk of whole batches, at most `chunk_images`, is read and augmented between two steps, or ahead by workers; on CUDA
    it is always augmented on the device. With several `ranks` a batch is the share of `rank`; its images do not change.

    Raises: ResourceError if a worker dies; UserError if an image is broken.
    """
    room = images_at_once(split.take(plan.order[:1].astype(np.int64)).numel(), workers)
    chunks = _Chunks(
        spans=_spans(len(plan), plan.batch_size, start_step, ranks * min(chunk_images, room)),
        batch_size=plan.batch_size,
        rank=rank,
        ranks=ranks,
    )
    on_device = torch.device(device).type == "cuda"
    mean = [round(255 * value) for value in preprocess.mean]
    read = _Read(split=split, plan=plan, mean=mean, augments=not on_device)
    operators()  # imported before the fork, or each worker would do it, every epoch
    for i, images in enumerate(read_ahead(read, chunks, workers=workers, most=room)):
        images = to_device(images, device)
        if on_device:
            images = augment(images, plan=plan.at(chunks[i]), mean=mean)
        labels = to_device(torch.from_numpy(split.labels[plan.order[chunks[i]]]), device)
        last = 0
        for rows, rank_weight in chunks.shares(i):
            first, last = last, last + len(rows)
            yield normalize_and_mix(
                images[first:last],
                labels[first:last],
                plan=plan.at(rows),
                preprocess=preprocess,
                channels_last=channels_last,
                rank_weight=rank_weight,
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Read:
    """Reads the images at some positions of the plan, uint8 (n, 3, H, W), and may augment them."""

    split: ImageSource
    plan: EpochPlan
    mean: Sequence[int]
    augments: bool

    def __call__(self, rows: Rows) -> Tensor:
        images = self.split.take(self.plan.order[rows].astype(np.int64))
        return augment(images, plan=self.plan.at(rows), mean=self.mean) if self.augments else images


def _spans(number: int, batch_size: int, start_step: int, chunk_images: int) -> list[tuple[int, int]]:
    """(start, stop) positions of each chunk: whole batches, at least one, about `chunk_images` images."""
    length = max(1, chunk_images // batch_size) * batch_size
    return [(start, min(start + length, number)) for start in range(start_step * batch_size, number, length)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunks(Sequence[Rows]):
    """The positions of chunk i that this rank computes."""

    spans: list[tuple[int, int]]
    batch_size: int
    rank: int
    ranks: int

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, i: Any) -> Any:
        return np.concatenate([rows for rows, _ in self.shares(i)])

    def shares(self, i: int) -> list[tuple[Rows, float]]:
        """For each batch in chunk i, the positions that this rank computes and its `rank_weight`."""
        start, stop = self.spans[i]
        return [
            share_of_batch(first, min(first + self.batch_size, stop), rank=self.rank, ranks=self.ranks)
            for first in range(start, stop, self.batch_size)
        ]


def share_of_batch(start: int, stop: int, *, rank: int, ranks: int) -> tuple[Rows, float]:
    """The positions of a batch (`start` to `stop`) that `rank` of `ranks` computes, ascending, and the weight of their mean.

    Images are distributed in mixup and cutmix pairs, each with the image at the same distance from the other end of the
    batch, so no rank needs another's images. The shares differ by at most two images.

    The mean over ranks of weight times mean is the mean over the batch. If a small batch leaves a rank without images, it
    gets the first image with weight 0: it must run the model with the others.
    """
    size = stop - start
    pairs = (size + 1) // 2  # from the middle of the batch outwards; that of an odd one is its own partner
    first = rank * (pairs // ranks) + min(rank, pairs % ranks)
    last = first + pairs // ranks + (rank < pairs % ranks)
    if first == last:
        return np.array([start]), 0.0
    front = np.arange(pairs - last, pairs - first)
    rows = np.union1d(front, size - 1 - front)
    return start + rows, ranks * len(rows) / size
