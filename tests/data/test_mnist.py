"""MNIST's files are found compressed or not, checked, and read."""

import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cctkit.catalog.datasets import DATASETS
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.sources.idx import read_idx
from cctkit.data.splits import Dataset
from cctkit.errors import UserError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (4, 5, 28, 28), dtype=np.uint8)[:2]  # train and test
LABELS = ([9, 0, 1, 2, 3], [4, 5, 6, 7, 8])


def parts() -> dict[str, bytes]:
    """The four files, written after the format's description: zero, zero, type, dimensions, sizes, bytes."""
    files: dict[str, bytes] = {}
    for side, images, labels in zip(("train", "t10k"), IMAGES, LABELS, strict=True):
        files[f"{side}-images-idx3-ubyte"] = struct.pack(">HBBIII", 0, 8, 3, *images.shape) + images.tobytes()
        files[f"{side}-labels-idx1-ubyte"] = struct.pack(">HBBI", 0, 8, 1, len(labels)) + bytes(labels)
    return files


def install(monkeypatch: pytest.MonkeyPatch, place: Path, *, compressed: bool) -> None:
    row = DATASETS["mnist"]
    remotes = []
    for remote, data in zip(row.archives[0].files, parts().values(), strict=True):
        path = place / remote.path
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = gzip.compress(data)
        (path if compressed else path.with_suffix("")).write_bytes(packed if compressed else data)
        remotes.append(replace(remote, md5=hashlib.md5(packed).hexdigest()))
    row = replace(row, archives=(replace(row.archives[0], files=tuple(remotes)),))
    monkeypatch.setattr("cctkit.data.images.DATASETS", MappingProxyType({**DATASETS, "mnist": row}))


def load(place: Path) -> Dataset:
    return load_dataset(DataConfig(dataset="mnist", data_dir=str(place), download=False, image_size=(28, 28)))


@pytest.mark.parametrize("compressed", [True, False])
def test_images_and_labels_are_read_as_written(compressed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, compressed=compressed)
    data = load(tmp_path)
    assert data.test is not None
    for split, images, labels in ((data.train, IMAGES[0], LABELS[0]), (data.test, IMAGES[1], LABELS[1])):
        assert [int(data.class_names[label]) for label in split.labels] == labels
        taken = split.take(np.arange(5)).numpy()
        assert all(np.array_equal(taken[:, channel], images) for channel in range(3))


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, compressed=True)
    path = next(tmp_path.rglob("t10k-labels*"))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="MD5 differs"):
        load(tmp_path)


@settings(max_examples=100, deadline=None)
@given(which=st.integers(0, 3), position=st.integers(0, 15), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_header_is_a_clear_error(which: int, position: int, value: int, cut: bool) -> None:
    files = parts()
    name = list(files)[which]
    position = min(position, 7 if "labels" in name else 15)
    data = bytearray(files[name])
    if cut:
        del data[position:]
    else:
        data[position] ^= value
    with pytest.raises(UserError):
        read_idx(files | {name: bytes(data)}, "x")
