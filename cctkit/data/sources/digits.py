"""The embedded digits: 1,797 handwritten digits of 8 x 8 pixels (UCI, CC BY 4.0)."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from cctkit.data.source import ROLES, DecodedImage, Origin, Source

_FILE = Path(__file__).with_name("digits.safetensors")
_GREYS = 16


def digits_origin() -> Origin:
    """The digits. The file is part of the package and never changes."""
    return Origin(address="digits", key="digits", place=None, load=lambda _: _source())


def _source() -> Source:
    """Scale values from 0-16 to 0-255, as RGB; the digits are not split."""
    tensors = load_file(_FILE)
    grey = (tensors["images"].astype(np.float32) * (255 / _GREYS)).round().astype(np.uint8)  # (1797, 8, 8)
    number = len(grey)
    return Source(
        name="digits",
        place=None,
        class_names=tuple(str(digit) for digit in range(10)),
        labels=tensors["labels"].astype(np.int64),
        roles=np.full(number, ROLES.index("all"), dtype=np.int8),
        ids=[f"digit/{i:04}" for i in range(number)],
        read=lambda i: DecodedImage(np.repeat(grey[i][:, :, None], 3, axis=2)),
    )
