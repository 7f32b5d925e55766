"""Any image file decodes to RGB pixels, or raises BadImageError with the reason."""

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from cctkit.data.preprocess import decode, formats, peek, strict_pillow, suffixes
from cctkit.data.source import BadImageError


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_pixel_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode in {"CMYK", "I;16"} else "x.png")
    grey = Image.fromarray(np.full((4, 6), 128, dtype=np.uint8))
    image = Image.fromarray(np.full((4, 6), 128 * 257, dtype=np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(path)
    pixels = decode(str(path)).pixels
    assert (pixels.shape, pixels.dtype) == ((4, 6, 3), np.uint8)
    if mode != "1":
        assert np.abs(pixels.astype(int) - 128).max() <= 3


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 8, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert decode(str(tmp_path / "x.jpg")).pixels.shape == (8, 4, 3)


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(BadImageError, match="at most 64,000,000"):
        decode(str(tmp_path / "bomb.png"))


def test_transparent_pixels_become_white_and_others_keep_their_color(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / "x.png")
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "y.png", transparency=bytes([255, 0]))
    for name in ("x.png", "y.png"):
        assert decode(str(tmp_path / name)).pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16)).save(tmp_path / "x.png")
    assert decode(str(tmp_path / "x.png")).pixels[0, :, 0].tolist() == [0, 0, 1, 255]


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(BadImageError, match="floating-point"):
        decode(str(tmp_path / "x.tif"))


def test_only_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (200, 0)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert decode(str(tmp_path / "x.gif")).pixels.min() == 200


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"]),
    position=st.floats(0, 1),
    value=st.integers(1, 255),
)
def test_a_damaged_image_decodes_or_raises_BadImageError(tmp_path: Path, kind: str, position: float, value: int) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(whole, kind)
    data = bytearray(whole.getvalue())
    data[int(position**2 * (len(data) - 1))] ^= value  # more often in the header
    (tmp_path / "x.png").write_bytes(data)
    with warnings.catch_warnings(), contextlib.suppress(BadImageError):
        warnings.simplefilter("ignore")
        assert decode(str(tmp_path / "x.png")).pixels.shape[2] == 3


def png_with_rows(rows: int, *, height: int = 80, interlaced: bool = False, grey: int = 200) -> bytes:
    """A PNG of 40 x `height` RGB pixels, all of `grey`, whose data ends after so many rows (PNG specification, 5 and 10)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(b"".join(b"\0" + bytes([grey]) * 120 for _ in range(rows)))
    header = struct.pack(">IIBBBBB", 40, height, 8, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("rows", [0, 3, 79])
def test_a_png_whose_data_ends_before_its_last_row_is_broken(tmp_path: Path, rows: int) -> None:
    (tmp_path / "x.png").write_bytes(png_with_rows(rows, height=8000 if rows == 3 else 80))
    with pytest.raises(BadImageError, match="truncated"):
        decode(str(tmp_path / "x.png"))


def test_a_png_with_black_last_rows_is_complete(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png_with_rows(80, grey=0))
    assert not decode(str(tmp_path / "x.png")).pixels.any()
    for mode, size in (("1", (13, 5)), ("L", (7, 3)), ("P", (3, 9)), ("RGBA", (5, 5)), ("LA", (1, 1)), ("I;16", (4, 4))):
        Image.new(mode, size).save(tmp_path / "y.png")
        assert decode(str(tmp_path / "y.png")).pixels.shape == (size[1], size[0], 3)


def test_an_interlaced_png_is_complete_or_broken(tmp_path: Path) -> None:
    # Adam7 of 40 x 8 pixels: passes of 5x1, 5x1, 10x1, 10x2, 20x2, 20x4 and 40x4 pixels; one byte of filter a row.
    lengths = [width * 3 for width in (5, 5, 10, 10, 10, 20, 20, *[20] * 4, *[40] * 4)]
    for missing in (0, 1):
        whole = png_with_rows(0, height=8, interlaced=True)
        data = zlib.compress(b"".join(b"\0" + bytes([200]) * length for length in lengths[: len(lengths) - missing]))
        old = whole.index(b"IDAT") - 4
        chunk = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
        (tmp_path / "x.png").write_bytes(whole[:old] + chunk + whole[whole.index(b"IEND") - 4 :])
        if missing:
            with pytest.raises(BadImageError, match="truncated"):
                decode(str(tmp_path / "x.png"))
        else:
            assert decode(str(tmp_path / "x.png")).pixels.min() == 200


def test_truncated_images_are_broken_whatever_another_library_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:800])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with strict_pillow(), pytest.raises(BadImageError, match="truncated"):
        decode(str(tmp_path / "x.jpg"))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [([0, 65_536], np.int32, "0 to 65,536, expected 0 to 65,535"), ([-1, 5], np.int32, "-1 to 5, expected 0")],
)
def test_grey_beyond_sixteen_bits_is_broken(tmp_path: Path, values: list[int], dtype: type, words: str) -> None:
    Image.fromarray(np.array([values], dtype=dtype)).save(tmp_path / "x.tif")
    with pytest.raises(BadImageError, match=words):
        decode(str(tmp_path / "x.tif"))


def colours_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of (H, W, 3) values up to 65,535, which Pillow reads but cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("value", "level"), [(4095, 15), (65535, 255)])
def test_the_largest_value_of_16_bit_colors_is_reported_up_to_the_lower_byte(tmp_path: Path, value: int, level: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(colours_of_16_bits(np.full((4, 6, 3), value)))
    decoded = decode(str(path))
    assert decoded.pixels.tolist() == [[[level] * 3] * 6] * 4
    assert decoded.peak == value
    assert peek(str(path)) == ((4, 6), True)


def test_the_largest_value_of_16_bit_gray_is_reported(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 4095]], dtype=np.uint16)).save(tmp_path / "x.tif")
    image = decode(str(tmp_path / "x.tif"))
    assert (image.pixels[0, :, 0].tolist(), image.peak) == ([0, 15], 4095)  # as it is, not scaled
    Image.new("L", (2, 2), 255).save(tmp_path / "y.tif")
    assert decode(str(tmp_path / "y.tif")).peak is None


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_further_pages_are_reported_and_not_read(tmp_path: Path, suffix: str) -> None:
    pages = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (200, 100, 50)]
    pages[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / f"y.{suffix}")
    stack, single = (decode(str(tmp_path / f"{name}.{suffix}")) for name in "xy")
    assert (stack.more_pages, single.more_pages) == (True, False)
    assert stack.pixels.tolist() == single.pixels.tolist()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif"])
def test_other_endings_of_known_formats_are_read(tmp_path: Path, suffix: str) -> None:
    kind = "AVIF" if suffix == ".avif" else "JPEG"
    if kind not in formats():
        pytest.skip("this Pillow has no AVIF")
    Image.new("L", (4, 4), 128).save(tmp_path / f"x{suffix}", format=kind)
    assert suffix in suffixes()
    assert abs(int(decode(str(tmp_path / f"x{suffix}")).pixels.mean()) - 128) <= 3


def test_the_pixel_limit_can_be_raised_without_pillow_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it, and raises above twice as many
    for name, side in (("x", 40), ("y", 50)):
        Image.new("1", (side, side)).save(tmp_path / f"{name}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with strict_pillow():
            with pytest.raises(BadImageError, match=r"50x50 pixels, expected at most 2,000; raise --max-pixels"):
                decode(str(tmp_path / "y.png"), max_pixels=2000)
            assert decode(str(tmp_path / "x.png"), max_pixels=2000).pixels.shape == (40, 40, 3)
            assert decode(str(tmp_path / "y.png"), max_pixels=2500).pixels.shape == (50, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000
