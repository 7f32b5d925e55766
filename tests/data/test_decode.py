"""An image file of any kind becomes RGB pixels, or a bad image with its fault."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cctkit.data.images import decode
from cctkit.data.source import BadImageError


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode in {"CMYK", "I;16"} else "x.png")
    grey = Image.fromarray(np.full((4, 6), 128, dtype=np.uint8))
    image = Image.fromarray(np.full((4, 6), 128 * 257, dtype=np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(path)
    pixels = decode(str(path))
    assert (pixels.shape, pixels.dtype) == ((4, 6, 3), np.uint8)
    if mode != "1":
        assert np.abs(pixels.astype(int) - 128).max() <= 3


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 8, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert decode(str(tmp_path / "x.jpg")).shape == (8, 4, 3)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(BadImageError, match="at most 64,000,000"):
        decode(str(tmp_path / "bomb.png"))


def test_what_is_transparent_becomes_white_and_what_is_not_keeps_its_colour(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / "x.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "y.png", transparency=bytes([255, 0]))
    for name in ("x.png", "y.png"):
        assert decode(str(tmp_path / name)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16)).save(tmp_path / "x.png")
    assert decode(str(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(BadImageError, match="floating-point"):
        decode(str(tmp_path / "x.tif"))


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (200, 0)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert decode(str(tmp_path / "x.gif")).min() == 200


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"]),
    position=st.floats(0, 1),
    value=st.integers(1, 255),
)
def test_a_damaged_image_is_an_image_or_a_bad_one(tmp_path: Path, kind: str, position: float, value: int) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(whole, kind)
    data = bytearray(whole.getvalue())
    data[int(position**2 * (len(data) - 1))] ^= value  # more often in the header
    (tmp_path / "x.png").write_bytes(data)
    with warnings.catch_warnings(), contextlib.suppress(BadImageError):
        warnings.simplefilter("ignore")
        assert decode(str(tmp_path / "x.png")).shape[2] == 3
