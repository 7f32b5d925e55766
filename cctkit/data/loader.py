"""From a split and a plan to batches on the device: chunks of images are augmented ahead, here or in worker processes."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cctkit.config import AugmentConfig
from cctkit.data.augment import Batch, augment, finish
from cctkit.data.plan import EpochPlan
from cctkit.data.policies import operators
from cctkit.data.shard import share_of_batch
from cctkit.data.transfer import to_device
from cctkit.errors import ResourceError
from cctkit.size import Size

CHUNK_IMAGES = 4096
_CHUNK_BYTES = 32 * 2**20
_SHARED_BYTES = 32 * 2**20  # of all chunks under way: a container's /dev/shm is often 64 MB
_PREFETCHED_CHUNKS = 2  # by each worker


class Images(Protocol):
    """What is read here of a `data.dataset.Split`."""

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]: ...

    def take(self, positions: np.ndarray[Any, np.dtype[np.int64]], /) -> Tensor: ...


def train_batches(
    split: Images,
    *,
    plan: EpochPlan,
    config: AugmentConfig,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: str,
    start_step: int = 0,
    workers: int = 0,
    channels_last: bool = True,
    image_size: Size | None = None,
    chunk_images: int = CHUNK_IMAGES,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """The batches of an epoch from `start_step` on; the same ones for any chunk size and number of workers.

    image_size: the model's, where it may be larger than the images'. Without workers a chunk (at most `chunk_images`, in
    whole batches) is augmented between two steps, on CUDA where that is the device; with them, ahead, on the CPU. With
    several `ranks` a batch is the share of `rank`, each image as it would be with one.

    Raises: ResourceError where a worker dies, which for want of shared memory it does silently.
    """
    spans = _spans(len(plan), batch_size, start_step, ranks * _room(split, plan, chunk_images, workers))
    chunks = _Chunks(
        split=split,
        plan=plan,
        config=config,
        fill=[round(255 * value) for value in mean],
        spans=spans,
        batch_size=batch_size,
        rank=rank,
        ranks=ranks,
        device=device if torch.device(device).type == "cuda" and workers == 0 else "cpu",
        shared=workers > 0,
    )
    for i, images in enumerate(_prepared(chunks, workers)):
        images = to_device(images, device)
        labels = to_device(torch.from_numpy(split.labels[plan.order[chunks.rows(i)]]), device)
        last = 0
        for rows, count in chunks.shares(i):
            first, last = last, last + len(rows)
            yield finish(
                images[first:last],
                labels[first:last],
                plan=plan.at(rows),
                mean=mean,
                std=std,
                channels_last=channels_last,
                image_size=image_size,
                count=count,
            )


def _room(split: Images, plan: EpochPlan, asked: int, workers: int) -> int:
    """How many images a chunk may have: as many as asked for, within the memory that chunks under way may take."""
    image_bytes = split.take(plan.order[:1]).numel()
    allowed = _SHARED_BYTES // (workers * _PREFETCHED_CHUNKS + 2) if workers else _CHUNK_BYTES
    return min(asked, allowed // image_bytes)


def _spans(number: int, batch_size: int, start_step: int, chunk_images: int) -> list[tuple[int, int]]:
    """(start, stop) positions of each chunk: whole batches, at least one, about `chunk_images` images."""
    length = max(1, chunk_images // batch_size) * batch_size
    return [(start, min(start + length, number)) for start in range(start_step * batch_size, number, length)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunks(TorchDataset[Tensor]):
    """Chunk i, augmented: uint8 (n, 3, H, W)."""

    split: Images
    plan: EpochPlan
    config: AugmentConfig
    fill: Sequence[float]
    spans: list[tuple[int, int]]
    batch_size: int
    rank: int
    ranks: int
    device: str
    shared: bool

    def __len__(self) -> int:
        return len(self.spans)

    def shares(self, i: int) -> list[tuple[np.ndarray[Any, Any], float]]:
        """Of each batch in chunk i, the positions that this rank computes, and what they count."""
        start, stop = self.spans[i]
        return [
            share_of_batch(first, min(first + self.batch_size, stop), rank=self.rank, ranks=self.ranks)
            for first in range(start, stop, self.batch_size)
        ]

    def rows(self, i: int) -> np.ndarray[Any, Any]:
        """The positions that this rank computes of chunk i."""
        return np.concatenate([rows for rows, _ in self.shares(i)])

    def __getitem__(self, i: int) -> Tensor:
        plan = self.plan.at(self.rows(i))
        images = to_device(self.split.take(plan.order), self.device)
        images = augment(images, plan=plan, config=self.config, fill=self.fill)
        # In shared memory already here, where a failure reaches the trainer: in the queue's thread it would be lost.
        return images.share_memory_() if self.shared else images  # type: ignore[no-untyped-call]


def _prepared(chunks: _Chunks, workers: int) -> Iterator[Tensor]:
    if workers == 0:
        yield from (chunks[i] for i in range(len(chunks)))
        return
    operators()  # imported before the fork, or each worker would do it, every epoch
    loader: DataLoader[Tensor] = DataLoader(
        chunks,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCHED_CHUNKS,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its base seed would come from torch's default one
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )
    iterator: Any = iter(loader)
    try:
        yield from iterator
    except RuntimeError as error:
        if not _worker_died(str(error)):
            raise
        raise ResourceError(
            "a loader worker died, most likely for want of shared memory",
            "/dev/shm",
            "use --workers 0, or raise the limit (--shm-size)",
        ) from error
    finally:
        iterator._shutdown_workers()  # left to the garbage collector, as with an error, it waits 5 s for each worker


def _worker_died(message: str) -> bool:
    """Whether torch's message is of a dead worker, or of one without shared memory; not of a bug in one."""
    return message.startswith("DataLoader worker (pid") or "shared memory" in message or "No space left" in message


def _start_worker(_index: int) -> None:
    """Signals sent to the whole process group (Ctrl-C, `timeout`) are the trainer's to answer, by saving.

    A worker told to end does so quietly: dying of the signal would raise in the trainer, before it has saved.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
