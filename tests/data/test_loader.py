"""Batches do not depend on the number of workers, the chunk size and the starting step."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.jobs import until
from cctkit.config.settings import AugmentConfig
from cctkit.data import reading
from cctkit.data.epoch.augment import Batch
from cctkit.data.epoch.loader import share_of_batch, train_batches
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.preprocess import Preprocess
from cctkit.errors import ResourceError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there are fewer cores than workers

PREPROCESS = Preprocess(stored_size=(16, 16), mean=(0.5,) * 3, std=(0.2,) * 3)
CONFIG = AugmentConfig(mixup=0.8, cutmix=1.0, random_erase=0.25)


@dataclass
class Images:
    """A split held in memory."""

    number: int

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (self.number, 3, 16, 16), dtype=torch.uint8, generator=generator)
        self.labels = np.arange(self.number) % 10

    def __len__(self) -> int:
        return self.number

    def take(self, positions: Any) -> torch.Tensor:
        return self.images[torch.from_numpy(positions)]


def batches(split: Any, **options: Any) -> Sequence[Batch]:
    plan = EpochPlan.draw(seed=0, epoch=1, num_images=len(split), batch_size=32, image_size=(16, 16), config=CONFIG)
    settings = {"preprocess": PREPROCESS, "device": "cpu"} | options
    return list(train_batches(split, plan=plan, **settings))


def equal(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True)
        for name in ("images", "labels", "partner_labels", "lam")
    )


WAYS = [{"chunk_images": 1}, {"chunk_images": 64}, {"workers": 1}, {"workers": 2, "chunk_images": 64}]


@pytest.mark.parametrize("options", WAYS)
def test_chunks_and_workers_change_nothing(options: dict[str, int]) -> None:
    split = Images(200)
    expected = batches(split)
    assert [len(batch.labels) for batch in expected] == [32] * 6 + [8]
    assert equal(batches(split, **options), expected)


def test_starting_at_a_later_step_gives_the_same_batches_from_there() -> None:
    split = Images(200)
    assert equal(batches(split, start_step=3, chunk_images=64), batches(split)[3:])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_that_resume_within_an_epoch_see_the_images_that_one_rank_sees(ranks: int) -> None:
    """A run of two goes on under one or three: the same images with the same augmentations, from that step on."""
    split, first = Images(200), 4
    expected = batches(split)[first:]
    shares = [batches(split, start_step=first, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step, batch in enumerate(expected):
        start = 32 * (first + step)
        seen = torch.zeros(len(batch.labels), dtype=torch.int64)
        for rank, share in enumerate(shares):
            rows, _ = share_of_batch(start, min(start + 32, len(split)), rank=rank, ranks=ranks)
            mine = torch.from_numpy(rows - start)
            assert torch.equal(share[step].images, batch.images[mine])
            assert torch.equal(share[step].labels, batch.labels[mine])
            seen[mine] += 1
        assert (seen == 1).all()


class LoggedImages(Images):
    """Notes in a file which process read a chunk."""

    log: str

    def take(self, positions: Any) -> torch.Tensor:
        if len(positions) > 1:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()}\n")
        return super().take(positions)


def stream_of(split: Any, workers: int) -> Iterator[Batch]:
    plan = EpochPlan.draw(seed=0, epoch=0, num_images=len(split), batch_size=32, image_size=(16, 16), config=CONFIG)
    return train_batches(
        split,
        plan=plan,
        preprocess=PREPROCESS,
        device="cpu",
        workers=workers,
        chunk_images=32,
    )


def test_worker_processes_read_ahead_of_the_steps(tmp_path: Path) -> None:
    split = LoggedImages(320)
    split.log = str(tmp_path / "log")
    stream = stream_of(split, workers=2)
    next(stream)
    until(lambda: len((tmp_path / "log").read_text().splitlines()) >= 4)  # read before a second batch was asked for
    assert os.getpid() not in set(map(int, (tmp_path / "log").read_text().splitlines()))
    stream.close()  # type: ignore[attr-defined]


def test_an_interrupted_epoch_leaves_no_worker_process() -> None:
    stream = stream_of(Images(320), workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_a_signal_to_the_process_group_reaches_the_trainer_only() -> None:
    stream = stream_of(Images(320), workers=1)
    next(stream)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    assert os.getpgid(worker.pid) != os.getpgid(0)
    os.kill(worker.pid, signal.SIGINT)  # as from a terminal, where it is in the group after all
    assert len(list(stream)) == 9


class DyingImages(Images):
    def take(self, positions: Any) -> torch.Tensor:
        if len(positions) > 1:
            os._exit(1)
        return super().take(positions)


def test_a_worker_that_dies_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(ResourceError, match="--workers 0"):
        batches(DyingImages(64), workers=1)


class FullImages(Images):
    def take(self, positions: Any) -> torch.Tensor:
        if len(positions) > 1:
            raise RuntimeError("unable to resize file </torch_1_2_0> to the right size: No space left on device (28)")
        return super().take(positions)


def test_a_worker_without_shared_memory_is_an_error_that_names_the_flag() -> None:
    with pytest.raises(ResourceError, match="--workers 0"):
        batches(FullImages(64), workers=1)


class BuggyImages(Images):
    def take(self, positions: Any) -> torch.Tensor:
        if len(positions) > 1:
            raise RuntimeError("a bug")
        return super().take(positions)


def test_a_bug_in_a_worker_stays_a_bug() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        batches(BuggyImages(64), workers=2)
    assert multiprocessing.active_children() == []


class Sizes(Images):
    """Counts the images of each chunk."""

    seen: list[int]

    def take(self, positions: Any) -> torch.Tensor:
        self.seen.append(len(positions))
        return super().take(positions)


def test_a_chunk_has_whole_batches_and_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Sizes(320)
    split.seen = []
    batches(split, chunk_images=100)
    assert split.seen == [1, 96, 96, 96, 32]
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 3 * 16 * 16 * 70)
    split.seen.clear()
    batches(split)
    assert split.seen == [1, 64, 64, 64, 64, 64]


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    batches(Images(64), workers=1)
    assert torch.equal(torch.get_rng_state(), before)
