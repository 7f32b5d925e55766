"""The packed file: whole or not there, mapped, recognised, and made anew when damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cctkit.config import DataConfig
from cctkit.data.dataset import Dataset, load_dataset
from cctkit.data.packed import open_packed
from cctkit.errors import StoppedError, UserError
from tests.conftest import write_images


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", {"cat": 6, "dog": 6})
    return tmp_path / "images"


def load(folder: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder)), **options)


def test_the_second_start_reads_no_image(cache: Path, folder: Path) -> None:
    seen = []
    load(folder, progress=lambda what, *_: seen.append(what))
    assert seen
    seen.clear()
    load(folder, progress=lambda what, *_: seen.append(what))
    assert not seen
    assert len(list(cache.iterdir())) == 1


def test_a_changed_image_is_packed_anew(cache: Path, folder: Path) -> None:
    before = load(folder).fingerprint
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(folder / "cat" / "0.png")
    assert load(folder).fingerprint != before
    assert len(list(cache.iterdir())) == 2


def test_pixels_labels_and_ids_belong_together(cache: Path, folder: Path) -> None:
    data = load(folder)
    for split in (data.train, data.test):
        for i, name in enumerate(split.ids()):
            expected = np.asarray(Image.open(folder / name).resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
            assert np.array_equal(split.take(np.array([i]))[0].numpy(), expected)
            assert data.class_names[split.labels[i]] == name.split("/")[0]


def test_the_fingerprint_is_of_pixels_and_classes_not_of_names_order_or_size(cache: Path, folder: Path, tmp_path: Path) -> None:
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


def test_an_interrupted_packing_leaves_nothing(cache: Path, folder: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise StoppedError(2)

    with pytest.raises(StoppedError):
        load(folder, progress=stop)
    assert list(cache.iterdir()) == []


def test_what_a_killed_packer_left_is_removed(cache: Path, folder: Path) -> None:
    cache.mkdir(parents=True)
    (cache / ".abc.safetensors.999999999.tmp").write_bytes(b"half")
    load(folder)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_a_packed_file_is_itself_a_data_set(cache: Path, folder: Path) -> None:
    data = load(folder)
    again = load_dataset(DataConfig(dataset=str(next(cache.iterdir()))))
    assert (again.fingerprint, again.class_names, again.test.ids()) == (data.fingerprint, data.class_names, data.test.ids())
    with pytest.raises(UserError, match="asked for"):
        load_dataset(DataConfig(dataset=str(next(cache.iterdir())), image_size=(8, 8)))


def test_images_are_mapped_not_read(cache: Path, folder: Path) -> None:
    data = load(folder)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("needs /proc")
    assert str(next(cache.iterdir())) in mapped.read_text()
    assert data.train.packed.images.is_contiguous()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_cache_never_crashes(cache: Path, folder: Path, position: float, value: int, cut: bool) -> None:
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
        open_packed(path)
    except UserError:
        load(folder)
        assert path.read_bytes() == whole
    path.write_bytes(whole)
