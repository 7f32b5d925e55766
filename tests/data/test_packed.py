"""The packed file is written atomically, memory-mapped, and packed again if damaged."""

import errno
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.packed import read as read_module
from cctkit.data.packed.read import KEY, Packed, open_packed
from cctkit.data.splits import Dataset
from cctkit.errors import ResourceError, UserError
from tests.conftest import write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", {"cat": 6, "dog": 6})
    return tmp_path / "images"


def load(folder: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder)), **options)


def test_the_second_load_reads_no_image(cache: Path, folder: Path) -> None:
    seen = []
    load(folder, progress=lambda what, *_: seen.append(what))
    assert "reading images" in seen
    seen.clear()
    load(folder, progress=lambda what, *_: seen.append(what))
    assert "reading images" not in seen
    assert len(list(cache.iterdir())) == 1


def test_a_changed_image_is_packed_again(cache: Path, folder: Path) -> None:
    before = load(folder).fingerprint
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(folder / "cat" / "0.png")
    assert load(folder).fingerprint != before
    assert len(list(cache.iterdir())) == 1


def test_a_process_that_has_the_older_images_mapped_keeps_them(cache: Path, folder: Path) -> None:
    data = load(folder)
    images, ids = data.train.take(np.arange(len(data.train))), data.train.ids()
    for i, path in enumerate(folder.rglob("*.png")):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(path)
    assert load(folder).fingerprint != data.fingerprint
    assert data.train.take(np.arange(len(data.train))).equal(images)
    assert data.train.ids() == ids


def test_pixels_labels_and_ids_belong_together(cache: Path, folder: Path) -> None:
    data = load(folder)
    for split in (data.train, data.test):
        for i, name in enumerate(split.ids()):
            expected = np.asarray(Image.open(folder / name).resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
            assert np.array_equal(split.take(np.array([i]))[0].numpy(), expected)
            assert data.class_names[split.labels[i]] == name.split("/")[0]


def test_the_fingerprint_depends_on_pixels_and_classes_only(cache: Path, folder: Path, tmp_path: Path) -> None:
    before = load(folder).fingerprint
    other = tmp_path / "other"
    for path in folder.rglob("*.png"):
        target = other / path.parent.name / f"renamed-{9 - int(path.stem)}.bmp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    assert load(other).fingerprint == before
    assert load_dataset(DataConfig(dataset=str(other), image_size=(8, 8))).fingerprint == before
    (other / "cat").rename(other / "cow")
    assert load(other).fingerprint != before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_an_error_and_leaves_no_file(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        load(folder)
    assert "CCTKIT_CACHE" in str(caught.value.remedy)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_an_unusable_cache_folder_is_an_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write"):
        load(folder)


def test_a_class_with_too_few_images_to_split_is_named(cache: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "few", {"cat": 2, "dog": 5})
    assert len(load(tmp_path / "few").train) == 5
    with pytest.raises(UserError, match="'cat' has 1 image to split"):
        load_dataset(DataConfig(dataset=str(tmp_path / "few"), val_fraction=0.1))


def test_a_packed_file_can_be_used_as_a_data_set(cache: Path, folder: Path) -> None:
    data = load(folder)
    again = load_dataset(DataConfig(dataset=str(next(cache.iterdir()))))
    assert (again.fingerprint, again.class_names, again.test.ids()) == (data.fingerprint, data.class_names, data.test.ids())
    with pytest.raises(UserError, match="cannot be upsampled to 8x8"):
        load_dataset(DataConfig(dataset=str(next(cache.iterdir())), image_size=(8, 8)))


def test_a_file_of_another_program_is_refused(cache: Path, tmp_path: Path) -> None:
    save_file({"x": np.zeros(3)}, tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(UserError, match="another program wrote it"):
        load(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="not a packed data set"):
        load(tmp_path / "text.safetensors")


def damage(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: np.ascontiguousarray(change(tensors[name]))})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage("labels", lambda labels: labels + 1), "label or role"),
        (damage("labels", lambda labels: labels - 1), "label or role"),
        (damage("labels", lambda labels: labels[:-1]), "do not match"),
        (damage("labels", lambda labels: labels.astype(np.int32)), "do not match"),
        (damage("roles", lambda roles: roles + 1), "label or role"),
        (damage("roles", lambda roles: roles - 4), "label or role"),
        (damage("roles", lambda roles: roles * 0 + 2), "no images to train on"),
        (damage("sums", lambda sums: sums * np.nan), "not finite"),
        (damage("sums", lambda sums: sums[:, :5]), "do not match"),
        (damage("order", lambda order: order[1:]), "do not match"),
        (damage("id_offsets", lambda offsets: offsets + 1), "ids"),
        (damage("id_offsets", lambda offsets: np.append(offsets[:-1], 7)), "ids"),
        (damage("id_offsets", lambda offsets: np.concatenate([[0, 9, 5], offsets[3:]])), "ids"),
        (damage("ids", lambda ids: ids[:-1]), "ids"),
        (damage("images", lambda images: images[:, :2]), "size that the header says"),
        (damage("images", lambda images: images[:-1]), "do not match"),
        (damage("images", lambda images: images.astype(np.int16)), "size that the header says"),
        (lambda tensors: tensors.pop("skipped"), "skipped"),
    ],
)
def test_invalid_tensors_are_refused(cache: Path, folder: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    load(folder)
    path = next(cache.iterdir())
    with safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=words):
        open_packed(path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 1},
        {"schema_version": "\x1b"},
        {"name": 3},
        {"fingerprint": ["x"]},
        {"class_names": ["cat", "cat"]},
        {"class_names": ["cat"]},
        {"class_names": ["cat", {"x": 1}]},
        {"class_names": 7},
        {"image_size": [32]},
        {"image_size": [16, 64]},
        {"image_size": "big"},
        {"resize_mode": "stretch"},
        {"resize_mode": []},
    ],
)
def test_an_invalid_header_is_refused(cache: Path, folder: Path, change: dict[str, Any]) -> None:
    load(folder)
    path = next(cache.iterdir())
    with safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata[KEY] = json.dumps(json.loads(metadata[KEY]) | change)
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match="not a packed data set") as caught:
        open_packed(path)
    assert str(caught.value).isprintable()


def test_images_are_memory_mapped(cache: Path, folder: Path) -> None:
    data = load(folder)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("needs /proc")
    data = load(folder)  # the second time, when the file has its name
    assert str(next(cache.iterdir())) in mapped.read_text()
    assert isinstance(data.train.store, Packed)
    assert data.train.store.images.is_contiguous()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_cached_file_is_an_error_never_a_crash(
    cache: Path, folder: Path, position: float, value: int, cut: bool
) -> None:
    load(folder)
    path = next(cache.glob("*.safetensors"))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    # half of the damage goes into the header, where the structure is
    place = int(position * 2 * 3000) if position < 0.5 else int(position * (len(whole) - 1))
    if cut:
        del damaged[place:]
    else:
        damaged[place] ^= value
    path.write_bytes(damaged)
    try:
        packed = open_packed(path)
        packed.ids(np.arange(12))
    except UserError:
        load(folder)
        assert path.read_bytes() == whole
    else:
        load_dataset(DataConfig(dataset=str(path)))
    path.write_bytes(whole)


def test_only_the_pages_of_requested_images_are_prefetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, {"cat": 9, "dog": 9})
    split = load_dataset(DataConfig(dataset=str(tmp_path), image_size=(48, 48))).train
    assert isinstance(split.store, Packed)
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(read_module, "_madvise", lambda: lambda *call: calls.append(call))
    positions = np.array([11, 0, 5])
    images = split.take(positions)
    first = [split.store.images[int(i)].data_ptr() for i in split.index[positions]]
    row_bytes = 3 * split.image_size[0] * split.image_size[1]
    for address, (start, length, advice) in zip(first, calls, strict=True):
        assert start % mmap.PAGESIZE == 0
        assert address - mmap.PAGESIZE < start <= address
        assert start + length == address + row_bytes
        assert advice == mmap.MADV_WILLNEED
    monkeypatch.setattr(read_module, "_madvise", lambda: None)  # where there is no such call
    assert split.take(positions).equal(images)


@pytest.mark.parametrize(("device", "rows"), [("meta", range(4)), ("cpu", range(0))])
def test_nothing_is_prefetched_on_another_device_or_without_images(
    monkeypatch: pytest.MonkeyPatch, device: str, rows: range
) -> None:
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(read_module, "_madvise", lambda: lambda *call: calls.append(call))
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    read_module._prefetch(images, np.arange(4))
    assert len(calls) == 4
    read_module._prefetch(images.to(device), np.array(rows, dtype=np.int64))
    assert len(calls) == 4
