"""The packed file: every image decoded once, at one size, in one safetensors file that is then mapped into memory.

A data set's *fingerprint* is the SHA-256 of the sorted digests of its images, each of role, class name, height, width and RGB
pixels as decoded, before any resizing. So it does not depend on file names, formats without loss, order or place. The role is
that of the source: train, val and test, or `all` where the split is made here (it is then not part of what the data is).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from cctkit.data.mapped import announce
from cctkit.data.source import ROLES, Labels, Roles
from cctkit.data.transfer import to_device
from cctkit.errors import UserError
from cctkit.size import Size
from cctkit.text import safe_text

KEY = "cctkit.packed"
SCHEMA = 2
DTYPES = {
    "labels": "int64",
    "id_offsets": "int64",
    "order": "int64",
    "sums": "float64",
    "roles": "int8",
    "ids": "uint8",
    "skipped": "uint8",
}
"""The tensors beside the images, in the order of the file: the wide ones first, so that each is aligned."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """A packed file, mapped: what is not used stays on the disk.

    images: uint8 (M, 3, H, W); labels, roles (M,); sums: float64 (M, 6), of each image's channels and of their squares, values
    in 0 to 255; order: int64 (M,), the head of each image's digest, by which splits are made; id_offsets (M + 1,).
    """

    name: str
    class_names: tuple[str, ...]
    fingerprint: str
    image_size: Size
    resize_mode: Literal["crop", "squash"]
    images: torch.Tensor
    labels: Labels
    roles: Roles
    sums: np.ndarray[Any, np.dtype[np.float64]]
    order: np.ndarray[Any, np.dtype[np.int64]]
    id_blob: np.ndarray[Any, np.dtype[np.uint8]]
    id_offsets: np.ndarray[Any, np.dtype[np.int64]]
    skipped: tuple[str, ...]
    path: Path

    def take(self, rows: Labels) -> torch.Tensor:
        """These images: uint8 (b, 3, H, W), a copy, on the device where the images are."""
        announce(self.images, rows)
        return self.images.index_select(0, to_device(torch.from_numpy(rows), self.images.device))

    def ids(self, rows: Labels) -> list[str]:
        """The ids of some images."""
        return [
            self.id_blob[self.id_offsets[i] : self.id_offsets[i + 1]].tobytes().decode("utf-8", "surrogateescape") for i in rows
        ]


def open_packed(path: Path) -> Packed:
    """Map a packed file.

    Raises: UserError where it is damaged, or no packed file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise ValueError("it is of another program")
            header = json.loads(metadata[KEY])
            arrays = {name: file.get_tensor(name).numpy() for name in DTYPES}
            return _checked(header, file.get_tensor("images"), arrays, path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"this is no packed data set, or a damaged one: {safe_text(error)}",
            safe_text(path),
            "give --dataset a folder, a name, or a file made by cctkit pack",
        ) from error


def _checked(header: dict[str, Any], images: torch.Tensor, arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> Packed:
    """The packed file, where all holds that later code relies on.

    Raises: ValueError, KeyError or TypeError.
    """
    if header["schema_version"] != SCHEMA:
        raise ValueError(f"it is of version {header['schema_version']}, expected {SCHEMA}")
    class_names, size = header["class_names"], tuple(header["image_size"])
    _check_texts([header["name"], header["fingerprint"], *class_names], class_names)
    if (
        header["resize_mode"] not in ("crop", "squash")
        or images.dtype != torch.uint8
        or images.shape != (len(images), 3, *size)
    ):
        raise ValueError("its images are not of the size that it says")
    _check_arrays(arrays, len(images), len(class_names))
    skipped = arrays["skipped"].tobytes().decode()
    return Packed(
        name=header["name"],
        class_names=tuple(class_names),
        fingerprint=header["fingerprint"],
        image_size=(size[0], size[1]),
        resize_mode=header["resize_mode"],
        images=images,
        labels=arrays["labels"],
        roles=arrays["roles"],
        sums=arrays["sums"],
        order=arrays["order"],
        id_blob=arrays["ids"],
        id_offsets=arrays["id_offsets"],
        skipped=tuple(skipped.split("\n")) if skipped else (),
        path=path,
    )


def _check_texts(texts: list[Any], class_names: list[Any]) -> None:
    if not all(isinstance(text, str) for text in texts) or len(set(class_names)) < len(class_names):
        raise ValueError("its names are no text, or not distinct")


def _check_arrays(arrays: dict[str, np.ndarray[Any, Any]], number: int, num_classes: int) -> None:
    shapes = {"labels": (number,), "roles": (number,), "sums": (number, 6), "order": (number,), "id_offsets": (number + 1,)}
    if any(arrays[name].dtype != dtype for name, dtype in DTYPES.items()) or any(
        arrays[name].shape != shape for name, shape in shapes.items()
    ):
        raise ValueError("its tensors do not fit each other")
    labels, roles, offsets = arrays["labels"], arrays["roles"], arrays["id_offsets"]
    if number == 0 or labels.min() < 0 or labels.max() >= num_classes or roles.min() < 0 or roles.max() >= len(ROLES):
        raise ValueError("a label or role is out of range")
    if not any((roles == ROLES.index(role)).any() for role in ("train", "all")):
        raise ValueError("it has no images to train on")
    if offsets[0] != 0 or offsets[-1] != arrays["ids"].size or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("its ids do not fit each other")
    if not np.isfinite(arrays["sums"]).all():
        raise ValueError("its statistics are not finite")
