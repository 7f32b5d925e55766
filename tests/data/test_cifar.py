"""CIFAR archives: found in every form, checked before they are read, and equal to the same images as files."""

import contextlib
import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cctkit.catalog.datasets import DATASETS, Archive
from cctkit.config import DataConfig
from cctkit.data import dataset
from cctkit.data.cifar import _unpickle
from cctkit.data.dataset import Dataset, load_dataset
from cctkit.errors import UserError

NAMES = ["zebra", "ant", "bee"]  # not sorted: a folder's classes are
GENERATOR = np.random.default_rng(0)
DATA = {side: GENERATOR.integers(0, 256, (number, 3072), dtype=np.uint8) for side, number in (("train", 12), ("test", 6))}
LABELS = {"train": [0, 1, 2] * 4, "test": [2, 1, 0] * 2}


def python_parts() -> dict[str, bytes]:
    batches: dict[str, Any] = {side: {"data": DATA[side], "fine_labels": LABELS[side]} for side in DATA}
    batches["meta"] = {"fine_label_names": NAMES}
    return {name: pickle.dumps(batch, protocol=2) for name, batch in batches.items()}


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


def install(monkeypatch: pytest.MonkeyPatch, place: Path, form: str) -> None:
    """A small CIFAR-100 in `place`, in one of its forms, with a row that has its checksums."""
    reader = "cifar_python" if "python" in form else "cifar_binary"
    parts = python_parts() if reader == "cifar_python" else binary_parts()
    archive: Archive = next(row for row in DATASETS["cifar100"].archives if row.reader == reader)
    place.mkdir(parents=True, exist_ok=True)
    if form.endswith("folder"):
        (place / archive.folder).mkdir()
        for name, data in parts.items():
            (place / archive.folder / name).write_bytes(data)
    else:
        tar(place / archive.file, archive.folder, parts)
        archive = replace(archive, md5=md5((place / archive.file).read_bytes()))
    if reader == "cifar_python":
        archive = replace(archive, parts={name: md5(data) for name, data in parts.items()})
    row = replace(DATASETS["cifar100"], archives=(archive,), num_classes=3)
    monkeypatch.setattr(dataset, "DATASETS", MappingProxyType({**DATASETS, "cifar100": row}))


def load(place: Path, **config: Any) -> Dataset:
    return load_dataset(DataConfig(**{"dataset": "cifar100", "data_dir": str(place), "download": False} | config))


FORMS = ["python folder", "python archive", "binary folder", "binary archive"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_as_a_folder_of_png_files(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "data", form)
    data = load(tmp_path / "data")
    for side in DATA:
        for i, (label, row) in enumerate(zip(LABELS[side], DATA[side], strict=True)):
            path = tmp_path / "png" / side / NAMES[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)
    files = load_dataset(DataConfig(dataset=str(tmp_path / "png")))
    assert data.class_names == files.class_names == ("ant", "bee", "zebra")
    assert data.fingerprint == files.fingerprint
    assert (len(data.train), len(data.test)) == (12, 6)
    assert np.array_equal(data.train.take(np.array([0]))[0].numpy().reshape(-1), DATA["train"][0])
    assert data.class_names[data.train.labels[0]] == "zebra"
    assert (data.name, data.mean) == ("cifar100", (0.5071, 0.4867, 0.4408))


@pytest.mark.parametrize("form", ["python folder", "python archive", "binary archive"])
def test_a_changed_file_is_refused_before_it_is_read(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, form)
    path = next(path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="MD5 differs"):
        load(tmp_path)


def test_what_has_the_fingerprint_of_a_named_data_set_is_that_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "data", "python folder")
    fingerprint = load(tmp_path / "data").fingerprint
    monkeypatch.setattr(dataset, "NAME_OF_FINGERPRINT", {fingerprint: "cifar100"})
    for side in DATA:
        for i, (label, row) in enumerate(zip(LABELS[side], DATA[side], strict=True)):
            path = tmp_path / "mine" / side / NAMES[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)
    mine = load_dataset(DataConfig(dataset=str(tmp_path / "mine")))
    assert (mine.name, mine.named, mine.std) == ("cifar100", True, (0.2675, 0.2565, 0.2761))


def test_without_a_data_set_the_digits_stand_in_and_the_reason_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    data = load_dataset(DataConfig(data_dir=str(tmp_path), download=False), notify=said.append)
    assert data.name == "digits"
    assert "--no-download" in said[0]
    assert "cifar-100-python.tar.gz" in said[0]


def test_asking_for_cifar_where_it_is_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--no-download"):
        load(tmp_path)


class Exploit:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


@pytest.mark.parametrize("payload", [Exploit(), {"data": Exploit()}, [1, 2], "text", open])
def test_a_pickle_that_holds_anything_else_is_refused_and_inert(payload: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no CIFAR batch"):
        _unpickle(pickle.dumps(payload), "x")
    assert capsys.readouterr().out == ""


@settings(max_examples=200, deadline=None)
@given(position=st.floats(0, 1), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_batch_is_an_error_or_a_dictionary(position: float, value: int, cut: bool) -> None:
    data = bytearray(pickle.dumps({"data": DATA["test"][:1, :20], "labels": [1]}, protocol=2))
    place = int(position * (len(data) - 1))
    if cut:
        del data[place:]
    else:
        data[place] ^= value
    with contextlib.suppress(UserError):
        assert isinstance(_unpickle(bytes(data), "x"), dict)


@pytest.mark.parametrize("name", ["../train", "/etc/train", "cifar-100-python/../../train"])
def test_members_outside_of_the_folder_are_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = DATASETS["cifar100"].archives[0]
    with tarfile.open(tmp_path / archive.file, "w:gz") as out:
        member = tarfile.TarInfo(name)
        member.size = 1
        out.addfile(member, io.BytesIO(b"x"))
    row = replace(archive, md5=md5((tmp_path / archive.file).read_bytes()))
    table = MappingProxyType({**DATASETS, "cifar100": replace(DATASETS["cifar100"], archives=(row,))})
    monkeypatch.setattr(dataset, "DATASETS", table)
    with pytest.raises(UserError, match="lacks train"):
        load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [archive.file]


def test_a_link_in_the_place_of_a_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = DATASETS["cifar100"].archives[0]
    with tarfile.open(tmp_path / archive.file, "w:gz") as out:
        member = tarfile.TarInfo(f"{archive.folder}/train")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(member)
    row = replace(archive, md5=md5((tmp_path / archive.file).read_bytes()))
    table = MappingProxyType({**DATASETS, "cifar100": replace(DATASETS["cifar100"], archives=(row,))})
    monkeypatch.setattr(dataset, "DATASETS", table)
    with pytest.raises(UserError, match="no plain file"):
        load(tmp_path)
