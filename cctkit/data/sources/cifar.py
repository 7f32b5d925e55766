"""Read CIFAR-10 and CIFAR-100 as published: the Python batches (pickles, after their checksum) and the binary batches."""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from cctkit.data.source import Labels, Pixels
from cctkit.errors import UserError
from cctkit.text import safe_text

_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE

Sides = tuple[tuple[Pixels, Labels], tuple[Pixels, Labels], tuple[str, ...]]
"""Images uint8 (n, 32, 32, 3) and labels int64 (n,) of train and of test, and the class names."""


class _StandIn:
    """Stands for numpy's arrays and types in a pickle, without calling numpy; `data` is the bytes of an array."""

    data = b""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.data = state[-1]


_ADMITTED = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct")}


class _BatchUnpickler(pickle._Unpickler):
    """Unpickles what CIFAR's batches contain, and nothing else.

    This is Python's unpickler in Python: the one in C allocates gigabytes if a damaged file asks for them.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not expected in a CIFAR batch")
        return _StandIn


def unpickle(data: bytes, where: str) -> dict[bytes, Any]:
    """Unpickle the dictionary of a batch; its strings are bytes, since Python 2 wrote it.

    Raises: UserError if it is anything else.
    """
    try:
        for _ in pickletools.genops(data):  # raises for lengths beyond the data, for which the unpickler would allocate memory
            pass
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"not a CIFAR batch: {safe_text(error)}", where) from error
    if not isinstance(batch, dict):
        raise UserError("not a CIFAR batch: it is not a dictionary", where)
    return batch


def read_python(parts: dict[str, bytes], where: str) -> Sides:
    """Read train, test and class names from the pickled batches, after their checksums were compared.

    Raises: UserError if the contents are unexpected.
    """
    batches = {name: unpickle(data, where) for name, data in parts.items()}
    hundred = "meta" in batches

    def side(wanted: Callable[[str], bool]) -> tuple[Pixels, Labels]:
        found = [batches[name] for name in sorted(batches) if wanted(name)]
        labels = np.concatenate([np.array(batch[b"fine_labels" if hundred else b"labels"], dtype=np.int64) for batch in found])
        return _images(b"".join(batch[b"data"].data for batch in found), labels)

    try:
        names = batches["meta"][b"fine_label_names"] if hundred else batches["batches.meta"][b"label_names"]
        class_names = tuple(name.decode() for name in names)
        return (
            side(lambda name: name.startswith(("train", "data_batch"))),
            side(lambda name: name.startswith("test")),
            class_names,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"the batches have unexpected contents: {safe_text(error)}", where) from error


def read_binary(parts: dict[str, bytes], where: str) -> Sides:
    """Read train, test and class names from the binary batches: label bytes (CIFAR-100: coarse, fine), then pixels.

    Raises: UserError if the contents are unexpected.
    """
    names_file = next(name for name in parts if name.endswith(".txt"))
    class_names = tuple(parts[names_file].decode("utf-8", "replace").split())
    label_bytes = 2 if names_file.startswith("fine") else 1
    width = label_bytes + _IMAGE_BYTES

    def side(start: tuple[str, ...]) -> tuple[Pixels, Labels]:
        data = b"".join(parts[name] for name in sorted(parts) if name.startswith(start))
        if not data or len(data) % width:
            raise UserError(f"the size of the {start[0]} batches is not a multiple of {width} bytes", where)
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
        return _images(rows[:, label_bytes:].tobytes(), rows[:, label_bytes - 1].astype(np.int64))

    return side(("train", "data_batch")), side(("test",)), class_names


def _images(data: bytes, labels: Labels) -> tuple[Pixels, Labels]:
    """Convert channels-first bytes to images uint8 (n, 32, 32, 3); return them with their labels (n,)."""
    if len(data) != len(labels) * _IMAGE_BYTES:
        raise ValueError(f"{len(labels)} labels for {len(data)} bytes of images")
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), labels
