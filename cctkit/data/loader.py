"""From a split and a plan to batches on the device: chunks of images are augmented ahead, here or in worker processes."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cctkit.config import AugmentConfig
from cctkit.data.augment import Batch, augment, finish
from cctkit.data.dataset import Split
from cctkit.data.plan import EpochPlan
from cctkit.errors import ResourceError

CHUNK_IMAGES = 4096
_PREFETCHED_CHUNKS = 2


def train_batches(
    split: Split,
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
    chunk_images: int = CHUNK_IMAGES,
) -> Iterator[Batch]:
    """The batches of an epoch from `start_step` on; the same ones for any chunk size and number of workers.

    Without workers a chunk is augmented on the device, between two steps; with them, ahead, on the CPU.

    Raises: ResourceError where a worker dies, which for want of shared memory it does silently.
    """
    spans = _spans(len(plan), batch_size, start_step, chunk_images)
    chunks = _Chunks(split=split, plan=plan, config=config, spans=spans, device=device if workers == 0 else "cpu")
    for (start, stop), images in zip(spans, _prepared(chunks, workers), strict=True):
        images = images.to(device, non_blocking=True)
        labels = torch.from_numpy(split.labels[plan.order[start:stop]]).to(device, non_blocking=True)
        for first in range(0, stop - start, batch_size):
            last = min(first + batch_size, stop - start)
            yield finish(
                images[first:last],
                labels[first:last],
                plan=plan.part(start + first, start + last),
                mean=mean,
                std=std,
                channels_last=channels_last,
            )


def _spans(number: int, batch_size: int, start_step: int, chunk_images: int) -> list[tuple[int, int]]:
    """(start, stop) positions of each chunk: whole batches, about `chunk_images` images."""
    length = max(1, chunk_images // batch_size) * batch_size
    return [(start, min(start + length, number)) for start in range(start_step * batch_size, number, length)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Chunks(TorchDataset[Tensor]):
    """Chunk i, augmented: uint8 (n, 3, H, W)."""

    split: Split
    plan: EpochPlan
    config: AugmentConfig
    spans: list[tuple[int, int]]
    device: str

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, i: int) -> Tensor:
        plan = self.plan.part(*self.spans[i])
        images = self.split.take(plan.order)
        if self.device == "cuda":
            images = images.pin_memory()
        return augment(images.to(self.device, non_blocking=True), plan=plan, config=self.config)


def _prepared(chunks: _Chunks, workers: int) -> Iterator[Tensor]:
    if workers == 0:
        yield from (chunks[i] for i in range(len(chunks)))
        return
    loader: DataLoader[Tensor] = DataLoader(
        chunks,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCHED_CHUNKS,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its base seed would come from torch's default one
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "worker" not in str(error).lower():
            raise
        raise ResourceError(
            "a loader worker died, most likely for want of shared memory",
            "/dev/shm",
            "use --workers 0, or raise the limit (--shm-size)",
        ) from error


def _start_worker(_index: int) -> None:
    """Ctrl-C reaches every process of the terminal; only the trainer answers it, by saving."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
