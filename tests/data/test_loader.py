"""Batches are the same for any number of workers, any chunk and any starting step."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from cctkit.config import AugmentConfig
from cctkit.data import loader
from cctkit.data.augment import Batch
from cctkit.data.loader import train_batches
from cctkit.data.plan import EpochPlan

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
    settings = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "device": "cpu"} | options
    return list(train_batches(split, plan=plan, config=CONFIG, batch_size=32, **settings))


def equal(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True)
        for name in ("images", "labels", "partner_labels", "weight")
    )


WAYS = [{"chunk_images": 1}, {"chunk_images": 64}, {"workers": 1}, {"workers": 2, "chunk_images": 64}]


@pytest.mark.parametrize("options", WAYS)
def test_chunks_and_workers_change_nothing(options: dict[str, int]) -> None:
    split = Images(200)
    expected = batches(split)
    assert [len(batch.labels) for batch in expected] == [32] * 6 + [8]
    assert equal(batches(split, **options), expected)


def test_starting_at_a_later_step_gives_the_later_batches() -> None:
    split = Images(200)
    assert equal(batches(split, start_step=3, chunk_images=64), batches(split)[3:])


class SlowImages(Images):
    """Notes in a file which process read a chunk, and when."""

    log: str

    def take(self, positions: Any) -> torch.Tensor:
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {time.monotonic()}\n")
        return super().take(positions)


def test_workers_read_ahead_of_the_steps_in_processes_of_their_own(tmp_path: Any) -> None:
    split = SlowImages(320)
    split.log = str(tmp_path / "log")
    plan = EpochPlan.draw(seed=0, epoch=0, num_images=320, batch_size=32, image_size=(16, 16), config=CONFIG)
    stream = train_batches(
        split,  # type: ignore[arg-type]
        plan=plan,
        config=CONFIG,
        batch_size=32,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        device="cpu",
        workers=2,
        chunk_images=32,
    )
    next(stream)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and len(lines := (tmp_path / "log").read_text().splitlines()) < 4:
        time.sleep(0.05)
    assert len(lines) >= 4  # read before a second batch was asked for
    assert os.getpid() not in {int(line.split()[0]) for line in lines}
    stream.close()  # type: ignore[attr-defined]


class DyingImages(Images):
    def take(self, positions: Any) -> torch.Tensor:
        os._exit(1)


def test_a_worker_that_dies_is_an_error_that_names_the_flag() -> None:
    from cctkit.errors import ResourceError

    with pytest.raises(ResourceError, match="--workers 0"):
        batches(DyingImages(64), workers=1)


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    batches(Images(64), workers=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert loader.CHUNK_IMAGES >= 1024
