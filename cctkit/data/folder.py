"""A folder of images: `train/CLASS/*` beside `test/` or `val/`, or just `CLASS/*`."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cctkit.catalog.datasets import DATASETS
from cctkit.data.source import ROLES, Pixels, Role, Source
from cctkit.errors import UserError
from cctkit.text import nearest, safe_text

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_ROLE_FOLDERS: dict[str, Role] = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_IGNORED = {"__MACOSX"}
_MAX_PIXELS = 64_000_000

_Entry = tuple[str, str, int, int]  # id, path, bytes, time of change in ns


class BadImageError(Exception):
    """A file that cannot be used as an image; the message says why."""


def folder_source(folder: Path) -> Source:
    """The images under `folder`, sorted by id (the path inside the folder).

    Raises: UserError where there is no image, only one class, an empty class, or a class that one side lacks.
    """
    folder = folder.resolve()
    parts = _parts(folder)
    entries: dict[Role, dict[str, list[_Entry]]] = {
        role: {name: sorted(_images(path, folder)) for name, path in _subfolders(part)} for role, part in parts
    }
    class_names = _common_classes(entries, folder)
    ids: list[str] = []
    paths: list[str] = []
    labels: list[int] = []
    roles: list[int] = []
    digest = hashlib.sha256(os.fsencode(folder))
    for role, classes in entries.items():
        for label, name in enumerate(class_names):
            for entry in classes[name]:
                digest.update(repr((role, *entry)).encode("utf-8", "surrogateescape"))
                ids.append(entry[0])
                paths.append(entry[1])
                labels.append(label)
                roles.append(ROLES.index(role))
    return Source(
        name=safe_text(folder.name, 60),
        key=digest.hexdigest(),
        place=str(folder),
        class_names=class_names,
        labels=np.array(labels, dtype=np.int64),
        roles=np.array(roles, dtype=np.int8),
        ids=ids,
        read=lambda i: decode(paths[i]),
    )


def _parts(folder: Path) -> list[tuple[Role, Path]]:
    """(role, folder) of each side; a `val` without a `test` counts as the test."""
    if not folder.is_dir():
        hint = nearest(folder.name, DATASETS)
        raise UserError(
            "there is no such folder, and no data set of this name",
            safe_text(folder),
            f"did you mean {' or '.join(hint)}?" if hint else f"name a folder, or one of: {', '.join(DATASETS)}",
        )
    named = [(role, folder / name) for name, role in _ROLE_FOLDERS.items() if (folder / name).is_dir()]
    roles = [role for role, _ in named]
    if "train" not in roles:
        return [("all", folder)]
    if roles.count("val") > 1:
        raise UserError("there is more than one of val/, valid/ and validation/", safe_text(folder), "keep one")
    if len(named) == 1:
        return [("all", folder / "train")]
    return named if "test" in roles else [("test" if role == "val" else role, path) for role, path in named]


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in _IGNORED


def _subfolders(folder: Path) -> list[tuple[str, str]]:
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.path) for entry in found if _visible(entry.name) and entry.is_dir())


def _images(folder: str, root: Path, seen: frozenset[str] = frozenset()) -> Iterator[_Entry]:
    """Every image file under `folder`, at any depth; links are followed, loops are not."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    with os.scandir(folder) as found:
        for entry in found:
            if not _visible(entry.name):
                continue
            if entry.is_dir():
                yield from _images(entry.path, root, seen | {real})
            elif os.path.splitext(entry.name)[1].lower() in _SUFFIXES:
                facts = entry.stat()
                yield entry.path[len(str(root)) + 1 :].replace(os.sep, "/"), entry.path, facts.st_size, facts.st_mtime_ns


def _common_classes(entries: dict[Role, dict[str, list[_Entry]]], folder: Path) -> tuple[str, ...]:
    """The class names, the same on every side, each with images."""
    where = safe_text(folder)
    if not any(files for classes in entries.values() for files in classes.values()):
        raise UserError(
            "there is no image in it",
            where,
            f"expected CLASS/*.png, or train/CLASS/* and test/CLASS/*; {', '.join(sorted(_SUFFIXES))}",
        )
    for role, classes in entries.items():
        empty = [name for name, files in classes.items() if not files]
        if empty:
            raise UserError(
                f"class {safe_text(empty[0])!r} has no image{'' if role == 'all' else f' in {role}'}",
                where,
                "remove the folder, or fill it",
            )
    names = {role: set(classes) for role, classes in entries.items()}
    everything = set.union(*names.values())
    for role, present in names.items():
        if missing := sorted(everything - present):
            raise UserError(f"{role} lacks the class {', '.join(map(safe_text, missing[:5]))}, which another side has", where)
    if len(everything) < 2:
        raise UserError(f"there is only one class, {safe_text(everything.pop())!r}; expected at least two", where)
    return tuple(sorted(everything))


def decode(path: str) -> Pixels:
    """The first frame of an image file as RGB, turned as its EXIF data says: uint8 (height, width, 3).

    Raises: BadImageError where it is none, broken, or larger than 64 megapixels.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise BadImageError(f"{image.width}x{image.height} pixels, at most {_MAX_PIXELS:,} are read")
            return _rgb(ImageOps.exif_transpose(image))
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise BadImageError(safe_text(error) if not isinstance(error, UnidentifiedImageError) else "no image") from error


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        grey = np.clip(np.asarray(image) // 256, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))
