"""Images of the data set as pictures inside the page."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from cctkit.data.source import Pixels

_LARGEST = 256  # longest side of a picture; larger images are reduced
_EXACT = 64  # up to this side as PNG, with every pixel as it is
_QUALITY = 88


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture for the page.

    pixels: uint8 (height, width, 3), as it was before it was reduced.
    uri: the file as a data URI.
    enlarged: whether it is so small that its pixels should show.
    """

    pixels: Pixels
    uri: str
    enlarged: bool


def picture(image: Tensor) -> Picture:
    """The picture of uint8 (3, H, W)."""
    return picture_of(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))


def picture_of(pixels: Pixels) -> Picture:
    """The picture of uint8 (height, width, 3)."""
    image, data = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((_LARGEST, _LARGEST))
    exact = max(image.size) <= _EXACT
    if exact:
        image.save(data, format="PNG")
    else:
        image.save(data, format="JPEG", quality=_QUALITY)
    return Picture(pixels=pixels, uri=data_uri(data.getvalue(), "png" if exact else "jpeg"), enlarged=exact)


def data_uri(data: bytes, kind: str) -> str:
    """A picture file as a data URI. kind: png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
