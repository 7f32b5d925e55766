"""A folder with everything that a folder of images can have wrong, and still be trained on; or not."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def _photo(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _short_png(width: int, height: int, rows: int) -> bytes:
    """A PNG whose data ends after so many of its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(b"".join(b"\0" + bytes([200]) * (3 * width) for _ in range(rows)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def messy_folder(root: Path, *, seed: int = 0) -> Path:
    """`Train/` and `Testing/` of birds, cats and dogs; nothing in it stops a training with --skip-bad."""
    root, generator = root.absolute(), np.random.default_rng(seed)
    for part, numbers in (("Train", {"bird": 4, "cat": 60, "dog": 20}), ("Testing", {"bird": 2, "cat": 8, "dog": 5})):
        for name, number in numbers.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                width, height = (320, 240) if i % 5 else (160, 120 + i)
                _photo(generator, width, height).save(folder / f"{i:03}.{'jfif' if i % 7 == 0 else 'jpg'}", format="JPEG")
    cat, dog = root / "Train" / "cat", root / "Train" / "dog"
    for i in range(3):  # 12 bits in 16
        Image.fromarray(generator.integers(0, 4096, (60, 80)).astype(np.uint16)).save(dog / f"scan{i}.tif")
    pages = [Image.fromarray(generator.integers(0, 65536, (60, 80)).astype(np.uint16)) for _ in range(3)]
    pages[0].save(cat / "stack.tif", save_all=True, append_images=pages[1:])
    for i in range(7):
        (cat / f"phone{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (dog / "map.jp2").write_bytes(b"\0\0\0\x0cjP  ")
    os.symlink(root, cat / "all")  # to a folder above
    os.symlink(dog, cat / "more")  # to another class
    _photo(generator, 40, 40).save(root / "Train" / "lost.png")
    (root / "annotations").mkdir()
    for name in ("labels.csv", "readme.txt", ".hidden"):
        (root / "Train" / name).write_text("x")
    (cat / "Thumbs.db").write_bytes(b"x")
    # Broken: no image, cut off, too few rows, 32-bit grey.
    (dog / "text.png").write_text("this is no image")
    whole = (cat / "001.jpg").read_bytes()
    (cat / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (cat / "short.png").write_bytes(_short_png(40, 8000, 3))
    Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)).save(cat / "deep.tif")
    return root
