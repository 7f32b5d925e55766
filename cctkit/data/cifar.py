"""CIFAR-10 and CIFAR-100 as published: the Python batches behind their checksums, and the binary ones."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cctkit.catalog.datasets import Archive
from cctkit.data.source import ROLES, Source
from cctkit.errors import UserError
from cctkit.text import safe_text

_MAX_PART_BYTES = 200_000_000
_PIXELS = 3 * 32 * 32

# All that the published batches hold; a pickle that names anything else is refused before it is made.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}

_Part = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # uint8 (n, 3072), int64 (n,)


def find_archive(archives: tuple[Archive, ...], data_dir: Path) -> tuple[Archive, Path] | None:
    """The first form of a data set that is in `data_dir`: its folder or its archive."""
    for archive in archives:
        for path in (data_dir / archive.folder, data_dir / archive.file):
            if path.exists():
                return archive, path
    return None


def cifar_source(name: str, archive: Archive, path: Path) -> Source:
    """The images of a CIFAR archive, or of the folder that it unpacks to.

    Raises: UserError where a part is missing, is not what was published, or does not hold what it should.
    """
    read = _tar_parts if path.is_file() else _folder_parts
    parts = dict(read(archive, path))
    train, test, class_names = (_python if archive.reader == "cifar_python" else _binary)(parts, path)
    data = np.concatenate([train[0], test[0]])
    labels = np.concatenate([train[1], test[1]])
    if data.shape != (len(labels), _PIXELS) or len(labels) == 0 or labels.min() < 0 or labels.max() >= len(class_names):
        raise UserError("the batches do not hold 32 x 32 images with labels of the named classes", safe_text(path))
    order = np.argsort(np.array(class_names), kind="stable")  # classes are sorted by name, as a folder's are
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    digest = hashlib.sha256(data.tobytes() + labels.tobytes() + repr(class_names).encode()).hexdigest()
    return Source(
        name=name,
        key=digest,
        place=None,
        class_names=tuple(class_names[i] for i in order),
        labels=ranks[labels],
        roles=np.repeat(np.array([ROLES.index("train"), ROLES.index("test")], dtype=np.int8), [len(train[1]), len(test[1])]),
        ids=[f"{role}/{i}" for role, part in (("train", train), ("test", test)) for i in range(len(part[1]))],
        read=lambda i: data[i].reshape(3, 32, 32).transpose(1, 2, 0),
    )


def _tar_parts(archive: Archive, path: Path) -> Iterator[tuple[str, bytes]]:
    """The expected members, read without unpacking anything to the disk."""
    if _md5(path) != archive.md5:
        raise UserError(
            "the archive is not the published one: its MD5 differs", safe_text(path), "delete it, and it is loaded again"
        )
    with tarfile.open(path) as tar:
        for part in archive.parts:
            try:
                member = tar.getmember(f"{archive.folder}/{part}")
            except KeyError as error:
                raise UserError(f"the archive lacks {part}", safe_text(path)) from error
            file = tar.extractfile(member) if member.isreg() and member.size <= _MAX_PART_BYTES else None
            if file is None:
                raise UserError(f"{part} in the archive is no plain file, or too large", safe_text(path))
            yield part, file.read()


def _folder_parts(archive: Archive, path: Path) -> Iterator[tuple[str, bytes]]:
    for part, md5 in archive.parts.items():
        file = path / part
        if not file.is_file() or file.stat().st_size > _MAX_PART_BYTES:
            raise UserError(f"{part} is missing, or too large", safe_text(path))
        data = file.read_bytes()
        if md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
            raise UserError(
                f"{part} is not the published file: its MD5 differs", safe_text(path), "delete the folder and load it again"
            )
        yield part, data


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _python(parts: dict[str, bytes], path: Path) -> tuple[_Part, _Part, list[str]]:
    """Train, test and class names of the pickled batches, whose checksums have been compared."""
    batches = {name: _unpickle(data, f"{path}/{name}") for name, data in parts.items()}

    def part(wanted: Callable[[str], bool]) -> _Part:
        found = [batch for name, batch in batches.items() if wanted(name)]
        labels = [batch["fine_labels" if "fine_labels" in batch else "labels"] for batch in found]
        return np.concatenate([batch["data"] for batch in found]), np.concatenate(labels).astype(np.int64)

    try:
        meta = batches.get("meta") or batches["batches.meta"]
        names = list(map(str, meta["fine_label_names" if "fine_label_names" in meta else "label_names"]))
        return (
            part(lambda name: name == "train" or name.startswith("data_batch")),
            part(lambda name: name.startswith("test")),
            names,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the batches do not hold what they should: {safe_text(error)}", safe_text(path)) from error


class _BatchUnpickler(pickle.Unpickler):
    """Admits what CIFAR's batches hold, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR batch")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"this is no CIFAR batch: {safe_text(error)}", safe_text(where)) from error
    if not isinstance(batch, dict):
        raise UserError("this is no CIFAR batch: it holds no dictionary", safe_text(where))
    return batch


def _binary(parts: dict[str, bytes], path: Path) -> tuple[_Part, _Part, list[str]]:
    """Train, test and class names of the binary batches: label bytes (CIFAR-100: coarse, fine), then the pixels."""
    names_file = next(name for name in parts if name.endswith(".txt"))
    names = parts[names_file].decode("utf-8", "replace").split()
    label_bytes = 2 if names_file.startswith("fine") else 1
    width = label_bytes + _PIXELS

    def part(start: str) -> _Part:
        data = b"".join(content for name, content in parts.items() if name.startswith(start))
        if not data or len(data) % width:
            raise UserError(f"the {start} batches are no multiple of {width} bytes", safe_text(path))
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
        return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int64)

    return part("train" if "train.bin" in parts else "data_batch"), part("test"), names
