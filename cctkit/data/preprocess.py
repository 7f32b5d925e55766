"""From an image file to a model's input: decode, orient, convert to RGB, resize and crop; then normalize and upsample."""

import contextlib
import functools
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from cctkit.config.size import MAX_PIXELS, Size
from cctkit.data.png import lacks_rows
from cctkit.data.source import BadImageError, DecodedImage, Pixels
from cctkit.text import safe_text

if TYPE_CHECKING:  # torch is imported by the first batch: folders are looked through without it
    from torch import Tensor

_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_WITH_PAGES = {"TIFF", "GIF", "WEBP", "PNG", "AVIF"}  # the second frame of a phone's JPEG is no page
_DEEPEST = 65_535
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # of EXIF: from 5 on height and width change places
LEAST_SIDE = 32
"""Smaller images are stored at this size: augmentation shifts and crops by pixels, and was designed for 32."""
_LARGE_PIXELS = 8_000_000
_LARGE: contextlib.AbstractContextManager[object] = threading.Lock()
"""Large images are decoded one at a time: each may take gigabytes."""


def share_large(lock: contextlib.AbstractContextManager[object]) -> None:
    """Decode large images under this lock from now on; several processes can share it."""
    global _LARGE
    _LARGE = lock


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    return ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM", *(["AVIF"] if features.check("avif") else []))


@functools.cache
def suffixes() -> frozenset[str]:
    """The endings of the files that are read."""
    known = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
    return frozenset(known | ({".avif"} if "AVIF" in formats() else set()))


@contextlib.contextmanager
def strict_pillow() -> Iterator[None]:
    """Decode without Pillow's warnings and pixel limit (`decode` has its own), and treat truncated files as errors.

    Other libraries may have changed these global settings; they are restored afterwards.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The fixed steps from an image file to a model's input. Augmentation comes between `load` and `to_input`.

    stored_size: (height, width) of an image after `load`.
    resize_mode: "crop" resizes the short side and crops the center, "squash" ignores the aspect ratio.
    max_pixels: a larger image is an error.
    reduce_jpeg: decode a JPEG at 1/2, 1/4 or 1/8 of its size if that is large enough: faster, with slightly other pixels.
    mean, std: per channel, of values in 0 to 1.
    image_size: (height, width) of the model's input; None: `stored_size`.
    in_model: the model itself normalizes and upsamples (an ONNX file): its input is uint8 images of `stored_size`.
    """

    stored_size: Size
    resize_mode: Literal["crop", "squash"] = "crop"
    max_pixels: int = MAX_PIXELS
    reduce_jpeg: bool = False
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    image_size: Size | None = None
    in_model: bool = False

    def load(self, path: str) -> Pixels:
        """Decode and resize an image file: uint8 (3, H, W).

        Raises: BadImageError.
        """
        least_side = max(self.stored_size) if self.reduce_jpeg else None
        return self.resize(decode(path, least_side=least_side, max_pixels=self.max_pixels).pixels)

    def load_image(self, image: Image.Image) -> Pixels:
        """Convert and resize an image that Pillow has opened, as `load` does a file; the image is not changed.

        Raises: BadImageError.
        """
        return self.resize(_pixels(ImageOps.exif_transpose(image))[0])

    def seen_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of an image that is kept, before resizing: left, top, right, bottom."""
        return _centre(height, width, self.stored_size) if self.resize_mode == "crop" else (0.0, 0.0, width, height)

    def resize(self, pixels: Pixels) -> Pixels:
        """uint8 (height, width, 3) -> uint8 (3, H, W) of `stored_size`, bilinear with antialiasing."""
        height, width = self.stored_size
        if pixels.shape[:2] != self.stored_size:
            box = _centre(pixels.shape[0], pixels.shape[1], self.stored_size) if self.resize_mode == "crop" else None
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box))
        return pixels.transpose(2, 0, 1)

    def to_input(self, images: "Tensor", *, channels_last: bool) -> "Tensor":
        """Normalize and upsample a batch: uint8 (B, 3, h, w) -> float32 (B, 3, H, W), on the device of the images.

        With `in_model`: uint8 (B, 3, h, w) -> uint8 (B, 3, H, W) of `stored_size`.
        """
        if self.in_model:
            return self._at_stored_size(images)
        return self.upsample(self.normalize(images), channels_last=channels_last)

    def _at_stored_size(self, images: "Tensor") -> "Tensor":
        """The images, resized as `load` does it if they were stored smaller than `stored_size`."""
        import torch

        if images.shape[2:] == self.stored_size:
            return images
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
        return torch.from_numpy(np.stack([self.resize(each) for each in pixels]))

    def normalize(self, images: "Tensor") -> "Tensor":
        """uint8 (B, 3, h, w) -> float32 `(x / 255 - mean) / std`, per channel."""
        import torch

        from cctkit.data.transfer import to_device

        scale = torch.tensor([1 / (255 * s) for s in self.std]).view(1, 3, 1, 1)
        shift = torch.tensor([m / s for m, s in zip(self.mean, self.std, strict=True)]).view(1, 3, 1, 1)
        return images.float().mul_(to_device(scale, images.device)).sub_(to_device(shift, images.device))

    def upsample(self, images: "Tensor", *, channels_last: bool) -> "Tensor":
        """float (B, 3, h, w) -> (B, 3, H, W) of `image_size`, as `models.weights.Upsampling` says; unchanged if equal."""
        import torch

        if self.image_size is not None and images.shape[2:] != self.image_size:
            images = torch.nn.functional.interpolate(images, size=self.image_size, mode="bilinear", align_corners=False)
        return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def decode(path: str, *, least_side: int | None = None, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode the first frame of an image file as RGB and apply its EXIF orientation.

    Transparent pixels become white; 16-bit gray keeps its upper byte.
    least_side: decode a JPEG at 1/2, 1/4 or 1/8 of its size, which is faster, if no side becomes shorter than this.

    Raises: BadImageError if the file is not an image, is broken, or has more than `max_pixels`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise BadImageError("not a regular file")
        with Image.open(path, formats=formats()) as image:
            if image.width * image.height > max_pixels:
                raise BadImageError(
                    f"{image.width}x{image.height} pixels, expected at most {max_pixels:,}; raise --max-pixels to read it"
                )
            if least_side is not None:
                image.draft(None, (least_side, least_side))  # in the mode that it has
            with _LARGE if image.width * image.height > _LARGE_PIXELS else contextlib.nullcontext():
                return _decoded(image, path)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("not an image in a supported format") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"more than {max_pixels:,} pixels; raise --max-pixels to read it") from error
    except OSError as error:
        raise BadImageError(safe_text(error.strerror or error)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise BadImageError(f"it cannot be decoded: {safe_text(error)}") from error


def peek(path: str) -> tuple[Size, bool]:
    """Read an image's decoded (height, width) from its header, and whether it may have 16 bits per channel or several pages.

    Raises: BadImageError if the header cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BadImageError("not a regular file")
        with Image.open(path, formats=formats()) as image:
            deep = image.mode.startswith("I") or _has_16_bits(image)  # before the EXIF data of a PNG loads its pixels
            turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
            size = (image.width, image.height) if turned else (image.height, image.width)
            return size, deep or image.format in _WITH_PAGES - {"PNG"}
    except Exception as error:
        raise BadImageError("not an image in a supported format") from error


class Header(NamedTuple):
    """What the header of an image file says.

    size: (height, width) as stored, before the EXIF orientation.
    turned: whether the EXIF orientation turns or mirrors the image.
    format, mode: Pillow's names.
    has_16_bits: whether each colour has 16 bits.
    """

    size: Size
    turned: bool
    format: str
    mode: str
    has_16_bits: bool


def read_header(path: str) -> Header:
    """Read the header of an image file, without its pixels.

    Raises: BadImageError if it cannot be read.
    """
    try:
        with Image.open(path, formats=formats()) as image:
            # The EXIF data of a PNG may follow its pixels, which it would load; such files are rare.
            has_exif = image.format != "PNG" or "exif" in image.info
            turned = has_exif and image.getexif().get(_ORIENTATION, 1) != 1
            size = (image.height, image.width)
            return Header(size, turned, image.format or "", image.mode, _has_16_bits(image))
    except Exception as error:
        raise BadImageError("not an image in a supported format") from error


def _decoded(image: Image.Image, path: str) -> DecodedImage:
    kind, has_16_bits = image.format, _has_16_bits(image)
    image.load()
    if kind == "PNG" and lacks_rows(image, path):
        raise BadImageError("image file is truncated (it ends before its last row)")
    ImageOps.exif_transpose(image, in_place=True)
    pixels, peak = _pixels(image)
    if has_16_bits and peak is None:  # Pillow keeps the upper byte of colours alone
        peak = int(pixels.max()) * 256 + 255
    more = False
    with contextlib.suppress(Exception):  # what is wrong behind the first frame concerns nobody
        more = kind in _WITH_PAGES and bool(getattr(image, "is_animated", False))
    return DecodedImage(pixels, peak, more)


def _pixels(image: Image.Image) -> tuple[Pixels, int | None]:
    """An image of any mode as RGB, uint8 (height, width, 3); and its largest value if it is 16-bit gray."""
    if image.mode == "F":
        raise BadImageError("floating-point pixels of unknown range")
    return _of_deep_grey(image) if image.mode.startswith("I") else (_rgb(image), None)


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the file has 16 bits per colour, by the raw mode that Pillow decodes it from, such as `RGB;16B`."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _of_deep_grey(image: Image.Image) -> tuple[Pixels, int]:
    """16-bit gray as 8-bit RGB, and its largest value. Pillow would clip it instead of scaling."""
    values = np.asarray(image)
    least, peak = int(values.min()), int(values.max())
    if least < 0 or peak > _DEEPEST:
        raise BadImageError(f"pixel values of {least:,} to {peak:,}, expected 0 to {_DEEPEST:,}")
    grey = (values // 256).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2), peak


def _rgb(image: Image.Image) -> Pixels:
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def stored_size(native: Size, size: Size) -> Size:
    """The size at which to store images that all have size `native`, for a model with input size `size`.

    Smaller images of the same aspect ratio keep their size and are upsampled on the device; others are resized to `size`.
    """
    kept = (max(native[0], LEAST_SIDE), max(native[1], LEAST_SIDE))
    return kept if enlarges(kept, size) else size


def enlarges(stored: Size, size: Size) -> bool:
    """Whether `size` has the aspect ratio of `stored` and is at least as large."""
    return stored[0] * size[1] == stored[1] * size[0] and stored[0] <= size[0]


def _centre(height: int, width: int, size: Size) -> tuple[float, float, float, float]:
    """The largest centered box with the aspect ratio of `size`: left, top, right, bottom."""
    wide = min(width, height * size[1] / size[0])
    high = min(height, width * size[0] / size[1])
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, min(left + wide, width), min(top + high, height)
