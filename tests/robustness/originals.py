"""Small intact files of every format that cctkit reads, made once."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import cctkit
from cctkit.catalog.datasets import DATASETS, Archive, DatasetRow
from cctkit.data.packed.read import open_packed
from tests.conftest import write_images
from tests.data import test_cifar, test_mnist
from tests.data.packs import pack
from tests.hub.test_card import write_onnx

NAMES = {"cat": 8, "dog": 8, "=fish": 8}
TRAIN: dict[str, Any] = {"model": "cct_2_3x1", "embed_dim": 16, "num_heads": 2, "image_size": 8, "epochs": 2, "threads": 1}


@dataclass(frozen=True, kw_only=True)
class Originals:
    """images: a folder of classes. run: a finished run on it. packed: the same images, packed. onnx: of the run's weights.

    archives: by reader, a row of the table of data sets and the folder in which its files are.
    pictures: an image file of each format, by Pillow's name.
    """

    images: Path
    run: Path
    packed: Path
    onnx: Path
    foreign: dict[str, Path]
    archives: dict[str, tuple[DatasetRow, Path]]
    pictures: dict[str, Path]


def make_originals(place: Path) -> Originals:
    """All of them, in the new folder `place`."""
    images, run = place / "images", place / "run"
    write_images(images, NAMES, size=(8, 8))
    cctkit.fit(dataset=str(images), output=run, val_fraction=0.25, ema=0.9, **TRAIN)
    pack(images, place / "packed", size=8)
    assert len(open_packed(place / "packed").images) == sum(NAMES.values())
    write_onnx(place / "model.onnx", run)
    return Originals(
        images=images,
        run=run,
        packed=place / "packed",
        onnx=place / "model.onnx",
        foreign=_foreign(place / "foreign"),
        archives=_archives(place / "archives"),
        pictures=_pictures(place / "pictures"),
    )


def _foreign(place: Path) -> dict[str, Path]:
    """Weights as other programs write them."""
    from safetensors.torch import save_file

    place.mkdir()
    weights = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5, 2.5])}
    torch.save({"state_dict": weights, "epoch": 3}, place / "zip.pth")
    torch.save(weights, place / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(weights, place / "plain.safetensors")
    return {path.stem: path for path in place.iterdir()}


def _archives(place: Path) -> dict[str, tuple[DatasetRow, Path]]:
    """A small CIFAR-100 in Python's and in the binary form, and a small MNIST, each with its own checksums."""
    found: dict[str, tuple[DatasetRow, Path]] = {}
    for reader, parts in (("cifar_python", test_cifar.python_parts()), ("cifar_binary", test_cifar.binary_parts())):
        row = DATASETS["cifar100"]
        archive = next(each for each in row.archives if each.reader == reader)
        folder = place / reader
        folder.mkdir(parents=True)
        test_cifar.tar(folder / archive.files[0].path, archive.folder, parts)
        found[reader] = replace(row, archives=(_summed(archive, folder),)), folder
    row = DATASETS["mnist"]
    folder = place / "idx"
    for remote, data in zip(row.archives[0].files, test_mnist.parts().values(), strict=True):
        path = folder / remote.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0))
    found["idx"] = replace(row, archives=(_summed(row.archives[0], folder),)), folder
    return found


def _summed(archive: Archive, folder: Path) -> Archive:
    """The archive with the checksums of its files in `folder`."""
    files = (replace(each, md5=hashlib.md5((folder / each.path).read_bytes()).hexdigest()) for each in archive.files)
    return replace(archive, files=tuple(files))


def _pictures(place: Path) -> dict[str, Path]:
    """Not a plain image each, but one that makes the reader work: EXIF, palette, transparency, several frames, 16 bits."""
    from cctkit.data.preprocess import formats

    place.mkdir()
    draws = np.random.default_rng(0)
    image = Image.fromarray(draws.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((24, 18))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = image.copy()
    clear.putalpha(128)
    options: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "PNG": (clear, {"exif": exif}),
        "JPEG": (image, {"exif": exif, "quality": 90}),
        "BMP": (image.convert("P"), {}),
        "WEBP": (clear, {"lossless": True}),
        "GIF": (image, {"save_all": True, "append_images": [image.rotate(90)]}),
        "TIFF": (image, {"compression": "tiff_lzw", "save_all": True, "append_images": [image]}),
        "PPM": (image, {}),
        "AVIF": (image, {}),
    }
    for name in formats():
        picture, how = options[name]
        picture.save(place / name.lower(), format=name, **how)
    return {name: place / name.lower() for name in formats()}


def members(path: Path, write: Callable[[tarfile.TarFile], object]) -> Path:
    """A compressed tar file with what `write` adds to it."""
    with tarfile.open(path, "w:gz") as archive:
        write(archive)
    return path


def member(name: str, data: bytes = b"", **facts: Any) -> tuple[tarfile.TarInfo, io.BytesIO]:
    """An entry of a tar file; `facts`: fields of it, such as its type."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for key, value in facts.items():
        setattr(entry, key, value)
    return entry, io.BytesIO(data)


def json_bytes(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    return dict(json.loads(path.read_bytes()))
