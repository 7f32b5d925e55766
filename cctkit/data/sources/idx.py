"""Read MNIST's idx files: a magic number, the sizes, then bytes."""

import math
import struct

import numpy as np

from cctkit.data.source import Labels, Pixels
from cctkit.errors import UserError

_BYTES = 8  # the idx code of unsigned bytes


def read_idx(parts: dict[str, bytes], where: str) -> tuple[tuple[Pixels, Labels], tuple[Pixels, Labels]]:
    """Read train and test: images uint8 (n, h, w, 3) and labels int64 (n,).

    parts: the files in the order train images, train labels, test images, test labels.

    Raises: UserError if a file does not match its header.
    """
    arrays = [_array(data, dims, where) for data, dims in zip(parts.values(), (3, 1, 3, 1), strict=True)]
    train, test = (
        (np.repeat(images[..., None], 3, axis=3), labels.astype(np.int64)) for images, labels in (arrays[:2], arrays[2:])
    )
    if len(train[0]) != len(train[1]) or len(test[0]) != len(test[1]):
        raise UserError("the number of labels is not that of the images", where)
    return train, test


def _array(data: bytes, dims: int, where: str) -> Pixels:
    head = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", data[4:head]) if len(data) >= head else ()
    if data[:4] != bytes([0, 0, _BYTES, dims]) or len(data) != head + math.prod(shape):
        raise UserError(f"expected an idx file of bytes with {dims} dimensions, got another or a damaged file", where)
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)
