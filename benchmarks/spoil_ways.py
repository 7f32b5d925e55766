"""Twelve ways to spoil a folder of images, for `spoilt.py`."""

import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

_TURNED = 6  # EXIF: turn by 90 degrees clockwise to see it upright


@dataclass(frozen=True, slots=True)
class Planted:
    """Something spoilt: the kind of finding that names it, and paths that belong together in it."""

    kind: str
    paths: frozenset[str]


@dataclass(slots=True)
class Folder:
    """A folder to spoil. Each image is drawn once; `whole` are the classes that have images in both splits."""

    root: Path
    rng: np.random.Generator
    whole: list[str]
    plants: int
    small: int
    drawn: set[Path] = field(default_factory=set)

    def a_class(self, *, without: str = "") -> str:
        return str(self.rng.choice([name for name in self.whole if name != without]))

    def image(self, split: str, name: str | None = None) -> Path:
        """An image that is not spoilt yet."""
        files = sorted((self.root / split / (name or self.a_class())).glob("*.png"))
        path = files[int(self.rng.choice([i for i, file in enumerate(files) if file not in self.drawn]))]
        self.drawn.add(path)
        return path

    def new(self, split: str, name: str, suffix: str) -> Path:
        """A name for a new image, of a plant of its own."""
        self.plants += 1
        path = self.root / split / name / f"plant{self.plants:04}-0{suffix}"
        self.drawn.add(path)
        return path

    def planted(self, kind: str, *paths: Path) -> Planted:
        return Planted(kind, frozenset(path.relative_to(self.root).as_posix() for path in paths))


def copy_into_test(folder: Folder) -> Planted:
    original = folder.image("train")
    copy = folder.new("test", original.parent.name, ".png")
    shutil.copy(original, copy)
    return folder.planted("copies_across_splits", original, copy)


def re_encode_into_test(folder: Folder) -> Planted:
    """As JPEG or WebP of quality 75 to 95, or at twice or three quarters of the size."""
    original = folder.image("train")
    image = Image.open(original).convert("RGB")
    suffix, factor = [(".jpg", 1), (".webp", 1), (".png", 2), (".png", 0.75)][int(folder.rng.integers(4))]
    copy = folder.new("test", original.parent.name, suffix)
    if factor == 1:
        image.save(copy, quality=int(folder.rng.integers(75, 96)))
    else:
        image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC).save(copy)
    return folder.planted("near_copies_across_splits", original, copy)


def cut_off(folder: Folder) -> Planted:
    path = folder.image("train")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return folder.planted("broken", path)


def give_wrong_ending(folder: Folder) -> Planted:
    path = folder.image("train")
    renamed = path.rename(path.with_suffix(".jpg"))
    return folder.planted("wrong_ending", renamed)


def turn(folder: Folder) -> Planted:
    """As a phone stores a photograph: on its side, with a note how to turn it."""
    path = folder.image("train")
    exif = Image.Exif()
    exif[0x0112] = _TURNED
    turned = path.with_suffix(".jpg")
    Image.open(path).convert("RGB").transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif, quality=95)
    path.unlink()
    return folder.planted("rotated", turned)


def add_blank(folder: Folder) -> Planted:
    path = folder.new("train", folder.a_class(), ".png")
    Image.new("RGB", (32, 32), tuple(folder.rng.integers(200, 256, 3).tolist())).save(path)
    return folder.planted("uniform", path)


def add_bomb(folder: Folder) -> Planted:
    """A PNG of a few bytes that says it is 40,000 x 40,000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path = folder.new("train", folder.a_class(), ".png")
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))
    return folder.planted("broken", path)


def add_unread_format(folder: Folder) -> Planted:
    path = folder.new("train", folder.a_class(), ".heic")
    path.write_bytes(b"\0\0\0\x18ftypheic")
    return folder.planted("unread_format", path)


def put_class_inside(folder: Folder) -> Planted:
    """A folder of one class inside of the folder of another one."""
    path = folder.image("train")
    inner = folder.root / "train" / folder.a_class(without=path.parent.name) / path.parent.name
    inner.mkdir(exist_ok=True)
    path.rename(inner / path.name)
    return folder.planted("nested_class", inner)


def put_plant_in_both(folder: Folder) -> Planted:
    """One image of a plant goes to test."""
    path = folder.image("train")
    moved = path.rename(folder.root / "test" / path.parent.name / path.name)
    folder.drawn.add(moved)
    return folder.planted("groups_across_splits", moved)


def remove_from_test(folder: Folder) -> Planted:
    name = folder.a_class()
    folder.whole.remove(name)
    shutil.rmtree(folder.root / "test" / name)
    return folder.planted("missing_class", folder.root / "test" / name)


def make_small(folder: Folder) -> Planted:
    name = folder.a_class()
    folder.whole.remove(name)
    place = folder.root / "train" / name
    files = sorted(place.iterdir())
    for i in folder.rng.permutation(len(files))[folder.small :]:
        files[i].unlink()
    return folder.planted("few_images", place)


ONCE: dict[str, Callable[[Folder], Planted]] = {
    "a class missing from test": remove_from_test,
    "a class with few images": make_small,
}
WAYS: dict[str, Callable[[Folder], Planted]] = {
    "a copy in test of a training image": copy_into_test,
    "a re-encoded or resized copy in test": re_encode_into_test,
    "a file that is cut off": cut_off,
    "a PNG file named .jpg": give_wrong_ending,
    "a photograph on its side, with EXIF": turn,
    "a blank image": add_blank,
    "a decompression bomb": add_bomb,
    "a HEIC file": add_unread_format,
    "a class folder inside of another": put_class_inside,
    "a plant in train and test": put_plant_in_both,
}
