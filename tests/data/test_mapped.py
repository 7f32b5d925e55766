"""The kernel is told which images will be read."""

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.packed import mapped
from cctkit.data.packed.read import Packed
from tests.conftest import write_images


def test_the_pages_of_the_images_that_are_taken_are_announced_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, {"cat": 9, "dog": 9})
    split = load_dataset(DataConfig(dataset=str(tmp_path), image_size=(48, 48))).train
    assert isinstance(split.store, Packed)
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(mapped, "_madvise", lambda: lambda *call: calls.append(call))
    positions = np.array([11, 0, 5])
    images = split.take(positions)
    first = [split.store.images[int(i)].data_ptr() for i in split.index[positions]]
    row_bytes = 3 * split.image_size[0] * split.image_size[1]
    for address, (start, length, advice) in zip(first, calls, strict=True):
        assert start % mmap.PAGESIZE == 0
        assert address - mmap.PAGESIZE < start <= address
        assert start + length == address + row_bytes
        assert advice == mmap.MADV_WILLNEED
    monkeypatch.setattr(mapped, "_madvise", lambda: None)  # where there is no such call
    assert split.take(positions).equal(images)


def test_what_is_announced_may_be_in_memory_already_and_what_is_not_mapped_is_left_alone() -> None:
    rows = np.arange(4)
    mapped.announce(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), rows)
    mapped.announce(torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="meta"), rows)
    mapped.announce(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), rows[:0])
