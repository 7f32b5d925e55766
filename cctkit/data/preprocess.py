"""One image file to RGB pixels, and pixels to another size. Only common formats, and none that is too large."""

import contextlib
import functools
import os
import stat
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from cctkit.config.size import MAX_PIXELS, Size
from cctkit.data.png import lacks_rows
from cctkit.data.source import BadImageError, DecodedImage, Pixels
from cctkit.text import safe_text

_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_WITH_PAGES = {"TIFF", "GIF", "WEBP", "PNG", "AVIF"}  # the second frame of a phone's JPEG is no page
_DEEPEST = 65_535
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # of EXIF: from 5 on height and width change places
LEAST_SIDE = 32
"""Smaller images are stored at this many pixels: augmentation moves and crops in pixels, and was made for 32."""
_LARGE_PIXELS = 8_000_000
_LARGE: contextlib.AbstractContextManager[object] = threading.Lock()
"""Large images are decoded one at a time, so that many cores do not mean as many gigabytes."""


def share_large(lock: contextlib.AbstractContextManager[object]) -> None:
    """From now on large images are decoded under this lock: one that several processes share."""
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
    """While images are decoded: no warning of Pillow's reaches the user, whose cap on pixels is `decode`'s own; and what is
    truncated is an error, whatever another library has set.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def decode(path: str, *, least_side: int | None = None, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """The first frame of an image file as RGB, turned as its EXIF data says.

    What is transparent becomes white; 16-bit grey keeps its upper byte. least_side: a JPEG is decoded at a half, a quarter
    or an eighth of its size, which is faster, where no side becomes shorter than this.

    Raises: BadImageError where it is no image, broken, or has more than `max_pixels`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise BadImageError("no regular file")
        with Image.open(path, formats=formats()) as image:
            if image.width * image.height > max_pixels:
                raise BadImageError(
                    f"{image.width}x{image.height} pixels, at most {max_pixels:,} are read; raise --max-pixels if it is meant"
                )
            if least_side is not None:
                image.draft(None, (least_side, least_side))  # in the mode that it has
            with _LARGE if image.width * image.height > _LARGE_PIXELS else contextlib.nullcontext():
                return _decoded(image, path)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("no image of a known format") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(f"more than {max_pixels:,} pixels; raise --max-pixels if it is meant") from error
    except OSError as error:
        raise BadImageError(safe_text(error.strerror or error)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise BadImageError(f"it cannot be decoded: {safe_text(error)}") from error


def peek(path: str) -> tuple[Size, bool]:
    """The height and width that an image file decodes to, by its header alone, and whether more than its pixels is to be told.

    Raises: BadImageError where it has none.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise BadImageError("no regular file")
        with Image.open(path, formats=formats()) as image:
            turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
            size = (image.width, image.height) if turned else (image.height, image.width)
            return size, image.mode.startswith("I") or image.format in _WITH_PAGES - {"PNG"}
    except Exception as error:
        raise BadImageError("no image of a known format") from error


def _decoded(image: Image.Image, path: str) -> DecodedImage:
    kind = image.format
    image.load()
    if kind == "PNG" and lacks_rows(image, path):
        raise BadImageError("image file is truncated (it ends before its last row)")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose range is not known")
    pixels, peak = _of_deep_grey(image) if image.mode.startswith("I") else (_rgb(image), None)
    more = False
    with contextlib.suppress(Exception):  # what is wrong behind the first frame concerns nobody
        more = kind in _WITH_PAGES and bool(getattr(image, "is_animated", False))
    return DecodedImage(pixels, peak, more)


def _of_deep_grey(image: Image.Image) -> tuple[Pixels, int]:
    """Grey of 16 bits, which Pillow would clip instead of scale, and its largest value."""
    values = np.asarray(image)
    least, peak = int(values.min()), int(values.max())
    if least < 0 or peak > _DEEPEST:
        raise BadImageError(f"pixels of {least:,} to {peak:,}, expected 0 to {_DEEPEST:,}")
    grey = (values // 256).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2), peak


def _rgb(image: Image.Image) -> Pixels:
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def resized(pixels: Pixels, size: Size, mode: str) -> Pixels:
    """An image at (height, width): as it is, squashed, or scaled by its short side and cropped. Bilinear, antialiased."""
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    box = _centre(pixels.shape[0], pixels.shape[1], size) if mode == "crop" else None
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box))


def stored_size(native: Size, size: Size) -> Size:
    """The size at which images, all of size `native`, are stored for a model that takes `size`.

    Small ones of the model's shape stay as they are, and are enlarged on the device; others are brought to `size`.
    """
    kept = (max(native[0], LEAST_SIDE), max(native[1], LEAST_SIDE))
    return kept if enlarges(kept, size) else size


def enlarges(stored: Size, size: Size) -> bool:
    """Whether `size` is `stored` in the same shape, or larger."""
    return stored[0] * size[1] == stored[1] * size[0] and stored[0] <= size[0]


def _centre(height: int, width: int, size: Size) -> tuple[float, float, float, float]:
    """The largest centred box of the shape of `size`: left, top, right, bottom."""
    wide = min(width, height * size[1] / size[0])
    high = min(height, width * size[0] / size[1])
    left, top = (width - wide) / 2, (height - high) / 2
    return left, top, min(left + wide, width), min(top + high, height)
