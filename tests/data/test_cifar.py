"""CIFAR archives are found in every form, checked before reading, and equal to the same images as files."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cctkit.catalog.datasets import DATASETS, Archive
from cctkit.config.settings import DataConfig
from cctkit.data import images
from cctkit.data.dataset import load_dataset
from cctkit.data.splits import Dataset
from cctkit.errors import UserError
from tests.data.python2 import python2_file

NAMES = ["zebra", "ant", "bee"]  # not sorted: a folder's classes are
GENERATOR = np.random.default_rng(0)
DATA = {side: GENERATOR.integers(0, 256, (n, 3072), dtype=np.uint8) for side, n in (("train", 12), ("test", 6))}
LABELS = {"train": [0, 1, 2] * 4, "test": [2, 1, 0] * 2}


def python_parts() -> dict[str, bytes]:
    batches: dict[str, Any] = {side: {"data": DATA[side], "fine_labels": LABELS[side]} for side in DATA}
    batches["meta"] = {"fine_label_names": NAMES}
    return {name: python2_file(batch) for name, batch in batches.items()}


def binary_parts() -> dict[str, bytes]:
    parts = {
        f"{side}.bin": b"".join(bytes([0, label]) + row.tobytes() for label, row in zip(LABELS[side], DATA[side], strict=True))
        for side in DATA
    }
    return parts | {"fine_label_names.txt": "\n".join(NAMES).encode() + b"\n"}


def tar(path: Path, folder: str, parts: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in parts.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def use(monkeypatch: pytest.MonkeyPatch, archive: Archive, path: Path | None = None) -> None:
    """Make `archive` the one of CIFAR-100, with the checksum of the file at `path`."""
    if path is not None:
        archive = replace(archive, files=(replace(archive.files[0], md5=md5(path.read_bytes())),))
    row = replace(DATASETS["cifar100"], archives=(archive,))
    monkeypatch.setattr("cctkit.data.images.DATASETS", MappingProxyType({**DATASETS, "cifar100": row}))


def install(monkeypatch: pytest.MonkeyPatch, place: Path, form: str) -> None:
    """A small CIFAR-100 in `place`, in one of its forms, with a row that has its checksums."""
    reader = "cifar_python" if "python" in form else "cifar_binary"
    parts = python_parts() if reader == "cifar_python" else binary_parts()
    archive: Archive = next(row for row in DATASETS["cifar100"].archives if row.reader == reader)
    if reader == "cifar_python":
        archive = replace(archive, parts={name: md5(data) for name, data in parts.items()})
    place.mkdir(parents=True, exist_ok=True)
    path = place / archive.files[0].path
    if form.endswith("folder"):
        (place / archive.folder).mkdir()
        for name, data in parts.items():
            (place / archive.folder / name).write_bytes(data)
        use(monkeypatch, archive)
    else:
        tar(path, archive.folder, parts)
        use(monkeypatch, archive, path)


def as_files(place: Path) -> None:
    """The same images as PNG files."""
    for side in DATA:
        for i, (label, row) in enumerate(zip(LABELS[side], DATA[side], strict=True)):
            path = place / side / NAMES[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)


def load(place: Path, **config: Any) -> Dataset:
    return load_dataset(DataConfig(**{"dataset": "cifar100", "data_dir": str(place), "download": False} | config))


def pixels(split: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.take(np.arange(len(split)))}


FORMS = ["python folder", "python archive", "binary folder", "binary archive"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_as_a_folder_of_png_files(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "data", form)
    data = load(tmp_path / "data")
    as_files(tmp_path / "png")
    files = load_dataset(DataConfig(dataset=str(tmp_path / "png")))
    assert data.class_names == files.class_names == ("ant", "bee", "zebra")
    assert data.fingerprint == files.fingerprint
    assert (len(data.train), len(data.test)) == (12, 6)
    assert np.array_equal(data.train.take(np.array([0]))[0].numpy().reshape(-1), DATA["train"][0])
    assert data.class_names[data.train.labels[0]] == "zebra"
    assert (data.name, data.mean) == ("cifar100", (0.5071, 0.4867, 0.4408))
    assert (data.train.ids()[:2], data.test.ids()[-1]) == (["train/0", "train/1"], "test/5")


def test_validation_images_are_the_same_from_an_archive_and_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "data", "binary archive")
    data = load(tmp_path / "data", val_fraction=0.5)
    as_files(tmp_path / "png")
    files = load_dataset(DataConfig(dataset=str(tmp_path / "png"), val_fraction=0.5))
    assert len(data.val) == 6
    assert pixels(data.val) == pixels(files.val)
    assert pixels(load(tmp_path / "data", val_fraction=0.5, split_seed=1).val) != pixels(data.val)


def test_the_fingerprint_follows_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "python folder")
    digests = []
    for side in DATA:
        for label, row in zip(LABELS[side], DATA[side], strict=True):
            rgb = bytes(row.reshape(3, 1024).T.reshape(-1))
            digests.append(hashlib.sha256(f'["{side}", "{NAMES[label]}", [32, 32]]'.encode() + rgb).digest())
    assert load(tmp_path).fingerprint == "sha256:" + hashlib.sha256(b"".join(sorted(digests))).hexdigest()


@pytest.mark.parametrize("form", FORMS)
def test_the_second_load_does_not_read_the_archive(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, form)
    load(tmp_path)
    monkeypatch.setattr("cctkit.data.sources.archives._parts", None)
    assert len(load(tmp_path).train) == 12


@pytest.mark.parametrize("form", ["python folder", "python archive", "binary archive"])
def test_a_changed_file_is_refused_before_it_is_read(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, form)
    path = next(path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="MD5 differs"):
        load(tmp_path)


def test_images_with_the_fingerprint_of_a_named_data_set_are_that_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "data", "python folder")
    fingerprint = load(tmp_path / "data").fingerprint
    monkeypatch.setattr("cctkit.data.images.NAME_OF_FINGERPRINT", {fingerprint: "cifar100"})
    as_files(tmp_path / "mine")
    mine = load_dataset(DataConfig(dataset=str(tmp_path / "mine")))
    assert (mine.name, mine.named, mine.std) == ("cifar100", True, (0.2675, 0.2565, 0.2761))
    assert mine.report.place == str(tmp_path / "mine")


def test_the_digits_replace_cifar_with_a_notice_if_no_data_set_is_given(tmp_path: Path) -> None:
    said: list[str] = []
    data = load_dataset(DataConfig(data_dir=str(tmp_path), download=False), notify=said.append)
    assert data.name == "digits"
    assert "--no-download" in said[0]
    assert "put cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html" in said[0]
    assert "--data-dir" in said[0]


def test_a_missing_cifar_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--no-download"):
        load(tmp_path)


@pytest.mark.parametrize(
    "broken",
    [
        {"meta": {"fine_label_names": ["a"]}},  # labels without a name
        {"meta": {"fine_label_names": ["a", "a", "b"]}},
        {"meta": {"label_names": NAMES}},
        {"train": {"data": DATA["train"], "fine_labels": [0, 1]}},
        {"train": {"data": DATA["train"], "fine_labels": ["x"] * 12}},
        {"train": {"data": [1, 2], "fine_labels": [0, 1]}},
        {"train": {"data": DATA["train"], "fine_labels": [-1] * 12}},
        {"test": {}},
    ],
)
def test_inconsistent_batches_are_an_error(broken: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = python_parts() | {name: python2_file(value) for name, value in broken.items()}
    archive = replace(DATASETS["cifar100"].archives[0], parts={name: md5(data) for name, data in parts.items()})
    (tmp_path / archive.folder).mkdir()
    for name, data in parts.items():
        (tmp_path / archive.folder / name).write_bytes(data)
    use(monkeypatch, archive)
    with pytest.raises(UserError):
        load(tmp_path)


def test_a_truncated_binary_batch_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "binary folder")
    path = tmp_path / "cifar-100-binary" / "test.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a multiple of 3074"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["../train", "/etc/train", "cifar-100-python/../../train", "train"])
def test_archive_members_outside_the_folder_are_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = DATASETS["cifar100"].archives[0]
    path = tmp_path / archive.files[0].path
    with tarfile.open(path, "w:gz") as out:
        member = tarfile.TarInfo(name)
        member.size = 1
        out.addfile(member, io.BytesIO(b"x"))
    use(monkeypatch, archive, path)
    with pytest.raises(UserError, match="lacks train"):
        load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [archive.files[0].path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_instead_of_a_batch_is_refused(kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = DATASETS["cifar100"].archives[0]
    path = tmp_path / archive.files[0].path
    with tarfile.open(path, "w:gz") as out:
        member = tarfile.TarInfo(f"{archive.folder}/train")
        member.type, member.linkname = kind, "/etc/passwd"
        out.addfile(member)
    use(monkeypatch, archive, path)
    with pytest.raises(UserError, match="not a regular file"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["no gzip", "torn", "huge member"])
def test_an_unreadable_archive_is_an_error(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "binary archive")
    archive = images.DATASETS["cifar100"].archives[0]
    path = tmp_path / archive.files[0].path
    if damage == "huge member":
        member = tarfile.TarInfo(f"{archive.folder}/train.bin")
        member.size = 300_000_000  # its bytes do not follow: what the header says is enough
        with tarfile.open(path, "w:gz") as out:
            out.addfile(member)
    else:
        path.write_bytes(b"x" * 100 if damage == "no gzip" else path.read_bytes()[:20_000])
    use(monkeypatch, archive, path)
    with pytest.raises(UserError, match="too large" if damage == "huge member" else "cannot be read"):
        load(tmp_path)
