"""MNIST's idx files: a magic number, the sizes, then bytes."""

import math
import struct

import numpy as np

from cctkit.data.source import Labels, Pixels
from cctkit.errors import UserError

_BYTES = 8  # the idx code of unsigned bytes


def read_idx(parts: dict[str, bytes], where: str) -> tuple[tuple[Pixels, Labels], tuple[Pixels, Labels]]:
    """Train and test: images uint8 (n, h, w, 3) and labels int64 (n,), from images and labels of train, then of test.

    Raises: UserError where a file is not what its header says.
    """
    arrays = [_array(data, dims, where) for data, dims in zip(parts.values(), (3, 1, 3, 1), strict=True)]
    train, test = (
        (np.repeat(images[..., None], 3, axis=3), labels.astype(np.int64)) for images, labels in (arrays[:2], arrays[2:])
    )
    if len(train[0]) != len(train[1]) or len(test[0]) != len(test[1]):
        raise UserError("there are not as many labels as images", where)
    return train, test


def _array(data: bytes, dims: int, where: str) -> Pixels:
    head = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", data[4:head]) if len(data) >= head else ()
    if data[:4] != bytes([0, 0, _BYTES, dims]) or len(data) != head + math.prod(shape):
        raise UserError(f"one of the files is no idx file of bytes in {dims} dimensions, or a damaged one", where)
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)
