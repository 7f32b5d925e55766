"""A folder of images: `train/CLASS/*` beside `test/` or `val/`, or just `CLASS/*`."""

import hashlib
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from cctkit.catalog.datasets import DATASETS
from cctkit.data.images import decode, suffixes
from cctkit.data.source import ROLES, CompactIds, Origin, Progress, Role, Source
from cctkit.errors import UserError
from cctkit.size import MAX_PIXELS
from cctkit.text import safe_text

_ROLE_FOLDERS: dict[str, Role] = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_IGNORED = {"__MACOSX"}
_NAMED = 5

_Entry = tuple[str, int, int]  # id (the path inside the folder), bytes, time of change in ns
_Counts = dict[str, int]  # images of each class


class _Files:
    """All images of a folder, in order; of each only what stays: its id, and its share in two digests."""

    def __init__(self, root: str, max_pixels: int) -> None:
        self.ids = CompactIds()
        cap = b"" if max_pixels == MAX_PIXELS else b"%d\0" % max_pixels  # under another cap others are broken
        self._listing, self._key = hashlib.sha256(), hashlib.sha256(os.fsencode(root) + b"\0" + cap)

    def extend(self, role: Role, name: str, entries: list[_Entry]) -> None:
        listed = "\0".join([role, name, *(f"{file}\0{size}" for file, size, _ in entries), ""])
        self._listing.update(listed.encode("utf-8", "surrogateescape"))
        timed = "\0".join([listed, *(str(time) for _, _, time in entries), ""])
        self._key.update(timed.encode("utf-8", "surrogateescape"))
        self.ids.extend(file for file, _, _ in entries)

    @property
    def listing(self) -> str:
        """See `Origin.listing`."""
        return self._listing.hexdigest()

    @property
    def key(self) -> str:
        """See `Origin.key`: what `listing` names, the times of the files, and where they are."""
        return self._key.hexdigest()


def folder_origin(folder: Path, progress: Progress, *, max_pixels: int = MAX_PIXELS) -> Origin:
    """The images under `folder`, found but not read, in the order of class and id. Links are followed.

    Raises: UserError where there is no image, only one class, an empty class, or a class that one side lacks.
    """
    root = str(folder.resolve())
    files = _Files(root, max_pixels)
    try:
        counts = {role: _classes(role, path, root, files, progress) for role, path in _parts(root)}
    except OSError as error:
        raise UserError(f"the folder cannot be read: {error.strerror}", safe_text(error.filename or root)) from error
    class_names = _common_classes(counts, root)
    return Origin(
        address=root,
        key=files.key,
        place=root,
        load=lambda _: _source(root, class_names, counts, files.ids, max_pixels),
        listing=files.listing,
    )


def _source(root: str, class_names: tuple[str, ...], counts: dict[Role, _Counts], ids: CompactIds, max_pixels: int) -> Source:
    numbers = [counts[role][name] for role in counts for name in class_names]
    start = root.rstrip(os.sep) + os.sep
    return Source(
        name=_name(root),
        place=root,
        class_names=class_names,
        labels=np.repeat(np.tile(np.arange(len(class_names), dtype=np.int64), len(counts)), numbers),
        roles=np.repeat(np.array([ROLES.index(role) for role in counts for _ in class_names], dtype=np.int8), numbers),
        ids=ids,
        read=lambda i: decode(start + ids[i], max_pixels=max_pixels),
    )


def _name(root: str) -> str:
    """The folder's own name; that of a named data set makes no folder one: only its images' fingerprint does."""
    name = safe_text(os.path.basename(root), 60) or "images"
    return f"{name}-folder" if name in DATASETS else name


def _parts(root: str) -> list[tuple[Role, str]]:
    """(role, folder) of each side; a `val` without a `test` counts as the test.

    `train/` is a side where it has folders of its own: images right inside it make it a class of that name.
    """
    folders = dict(_subfolders(root))
    sides = {name: path for name, path in folders.items() if name in _ROLE_FOLDERS and _subfolders(path)}
    if "train" not in sides:
        if folders and sides.keys() == folders.keys():
            raise UserError(
                f"there is {'/, '.join(sides)}/ but no train/ with images to learn from",
                safe_text(root),
                "expected train/CLASS/* beside it, or just CLASS/*",
            )
        return [("all", root)]
    if len(sides) == 1:
        if others := [name for name, path in folders.items() if name != "train" and any(_images(path, root, set()))]:
            raise UserError(
                f"train/ holds folders, and so is {safe_text(others[0])}/ one of images: neither split nor classes",
                safe_text(root),
                "name the other side test/ or val/, or give --dataset the folder train/ itself",
            )
        return [("all", sides["train"])]
    named = [(_ROLE_FOLDERS[name], path) for name, path in sides.items()]
    roles = [role for role, _ in named]
    if roles.count("val") > 1:
        raise UserError("there is more than one of val/, valid/ and validation/", safe_text(root), "keep one")
    if "test" not in roles:
        named = [("test" if role == "val" else role, path) for role, path in named]
    return sorted(named, key=lambda part: ROLES.index(part[0]))


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in _IGNORED


def _subfolders(folder: str) -> list[tuple[str, str]]:
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.path) for entry in found if _visible(entry.name) and entry.is_dir())


def _classes(role: Role, part: str, root: str, files: _Files, progress: Progress) -> _Counts:
    """The number of images in every class folder of one side; the images themselves go to `files`."""
    folders = _subfolders(part)
    counts: _Counts = {}
    for done, (name, path) in enumerate(folders):
        progress("looking for images (classes)", done, len(folders))
        entries = sorted(_images(path, root, set()))
        files.extend(role, name, entries)
        counts[name] = len(entries)
    return counts


def _images(folder: str, root: str, seen: set[str]) -> Iterator[_Entry]:
    """Every image file under `folder`, at any depth; a folder that links lead to more than once, or round, is read once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if _visible(entry.name)), key=lambda entry: entry.name)
    prefix = len(root.rstrip(os.sep)) + 1
    for entry in entries:
        if entry.is_dir():
            yield from _images(entry.path, root, seen)
        elif os.path.splitext(entry.name)[1].lower() in suffixes():
            yield entry.path[prefix:].replace(os.sep, "/"), *_facts(entry)


def _facts(entry: "os.DirEntry[str]") -> tuple[int, int]:
    """Bytes and time of change; a link to nothing has none, and will be a broken image."""
    try:
        facts = entry.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _common_classes(counts: dict[Role, _Counts], root: str) -> tuple[str, ...]:
    """The class names, the same on every side, each with images."""
    where = safe_text(root)
    if not any(chain.from_iterable(classes.values() for classes in counts.values())):
        raise UserError(
            "there is no image in a class folder in it",
            where,
            f"expected CLASS/*, or train/CLASS/* and test/CLASS/*, of {' '.join(sorted(suffixes()))}",
        )
    for role, classes in counts.items():
        if empty := [name for name, number in classes.items() if not number]:
            side = "" if role == "all" else f" in {role}"
            raise UserError(f"no image{side} of the class {_some(empty)}", where, "remove its folder, or fill it")
    everything = sorted(set(chain.from_iterable(counts.values())))
    for role, classes in counts.items():
        if missing := [name for name in everything if name not in classes]:
            raise UserError(
                f"{role} lacks the class {_some(missing)}, which another side has",
                where,
                "give every side the same class folders",
            )
    if len(everything) < 2:
        raise UserError(f"there is only one class, {_some(everything)}; expected at least two", where, "one folder a class")
    return tuple(everything)


def _some(names: list[str]) -> str:
    """The first few names, safe to print."""
    shown = ", ".join(repr(safe_text(name, 60)) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
