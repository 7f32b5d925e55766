"""Memory of a packed data set: images stay on the disk, and the metadata per image is bounded."""

import json
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from cctkit.config.settings import AugmentConfig, DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.overlap import copies_notice, seen_file
from cctkit.data.packed.read import KEY, SCHEMA
from cctkit.data.report.seen import Seen
from cctkit.data.source import ROLES
from cctkit.digests import sealed_over

EVERYTHING = AugmentConfig(auto_augment="rand", crop="resized", mixup=0.8, cutmix=1.0, random_erase=0.25)


def write_packed(path: Path, number: int, role: str, copies: int) -> Path:
    """`number` images of 2 x 2 pixels in ten classes; the last hundred are test images, unless all are to be split.

    The first `copies` are pairs of the same image, in two classes.
    """
    roles = np.full(number, ROLES.index("all"), dtype=np.int8)
    if role == "train":
        roles[:-100], roles[-100:] = ROLES.index("train"), ROLES.index("test")
    seen = Seen(num_images=number, num_sizes=1, sizes=((2, 2, number),), smallest=(2, 2), largest=(2, 2))
    texts = b"".join(b"%8d" % i for i in range(number))
    tensors = {
        "images": np.zeros((number, 3, 2, 2), dtype=np.uint8),
        "labels": np.arange(number) % 10,
        "roles": roles,
        "sums": np.ones((number, 6)),
        "pixel_digests": np.concatenate([np.arange(copies) // 2, np.arange(copies, number)]),
        "order": np.arange(number)[::-1].copy(),
        "checksums": np.full(number, zlib.crc32(bytes(12)), dtype=np.uint32),
        "ids": np.frombuffer(texts, dtype=np.uint8),
        "id_offsets": np.arange(number + 1) * 8,
        "skipped": np.zeros(0, dtype=np.uint8),
        "seen": np.frombuffer(seen.as_json().encode(), dtype=np.uint8),
    }
    header = {
        "schema_version": SCHEMA,
        "name": "noise",
        "class_names": list("abcdefghij"),
        "image_size": [2, 2],
        "resize_mode": "crop",
        "fingerprint": "sha256:" + "0" * 64,
    }
    plain = save(tensors)
    size = int.from_bytes(plain[:8], "little")
    entries = json.loads(plain[8 : 8 + size])
    first, last = (8 + size + offset for offset in entries["images"]["data_offsets"])
    save_file(tensors, path, {KEY: json.dumps(sealed_over(header, entries, [plain[8 + size : first], plain[last:]]))})
    return path


def peak_bytes(path: Path, val_fraction: float, config: AugmentConfig) -> int:
    """The most that is allocated while the data set is made ready, an epoch is drawn, and its middle is taken."""
    tracemalloc.start()
    dataset = load_dataset(DataConfig(dataset=str(path), val_fraction=val_fraction))
    copies_notice(dataset)
    seen_file(dataset.train)
    plan = EpochPlan.draw(seed=0, epoch=0, num_images=len(dataset.train), batch_size=128, image_size=(2, 2), config=config)
    part = plan.at(np.arange(5000, 5128))
    assert dataset.train.take(part.order).shape == (128, 3, 2, 2)
    assert dataset.train.labels[part.order].shape == (128,)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("config", [AugmentConfig(), EVERYTHING])
@pytest.mark.parametrize(("role", "val_fraction"), [("train", 0.0), ("train", 0.1), ("all", 0.1)])
def test_a_packed_data_set_and_its_epoch_take_at_most_64_bytes_per_image(
    tmp_path: Path, role: str, val_fraction: float, config: AugmentConfig
) -> None:
    few, many = (write_packed(tmp_path / str(number), number, role, 0) for number in (50_000, 150_000))
    peak_bytes(few, val_fraction, config)  # what is made once
    assert peak_bytes(many, val_fraction, config) - peak_bytes(few, val_fraction, config) <= 64 * 100_000


@pytest.mark.parametrize("copied", [0.01, 1.0])
def test_a_split_that_keeps_copies_together_takes_no_more(tmp_path: Path, copied: float) -> None:
    few, many = (write_packed(tmp_path / str(number), number, "all", round(copied * number)) for number in (20_000, 60_000))
    peak_bytes(few, 0.1, AugmentConfig())
    assert peak_bytes(many, 0.1, AugmentConfig()) - peak_bytes(few, 0.1, AugmentConfig()) <= 64 * 40_000
