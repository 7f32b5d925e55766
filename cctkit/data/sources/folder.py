"""A folder of images: `train/CLASS/*` beside `test/` or `val/`, or just `CLASS/*`."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from cctkit.catalog.datasets import DATASETS
from cctkit.config.size import MAX_PIXELS
from cctkit.data.preprocess import decode, suffixes
from cctkit.data.report.findings import NAMED, Finding, Finds
from cctkit.data.source import ROLES, CompactIds, Origin, Progress, Role, Source
from cctkit.data.sources.layout import parts_of, subfolders
from cctkit.data.sources.scan import Counts, Entry, Scan
from cctkit.errors import UserError
from cctkit.text import counted, safe_text


class _Files:
    """Collects the ids of all images of a folder, and two digests over them."""

    def __init__(self, root: str, max_pixels: int) -> None:
        self.ids = CompactIds()
        cap = b"" if max_pixels == MAX_PIXELS else b"%d\0" % max_pixels  # another limit makes other images broken
        self._listing, self._key = hashlib.sha256(), hashlib.sha256(os.fsencode(root) + b"\0" + cap)

    def extend(self, role: Role, name: str, entries: list[Entry]) -> None:
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
        """See `Origin.key`: the listing, the file times and the location."""
        return self._key.hexdigest()


def folder_origin(folder: Path, progress: Progress, *, max_pixels: int = MAX_PIXELS, most_named: int | None = NAMED) -> Origin:
    """Find the images under `folder`, in the order of class and id, without reading them.

    Links are followed, except to a parent folder or to another class. The origin has faults if there is no image or only one
    class, or if a class is empty or missing in a split.

    most_named: number of paths per finding; None: all.

    Raises: UserError if the folder has neither splits nor classes.
    """
    root = str(folder.resolve())
    files, finds = _Files(root, max_pixels), Finds(most_named)
    try:
        parts = parts_of(root, finds)
        counts = Scan(root, parts, finds).images(files.extend, progress)
    except OSError as error:
        raise UserError(f"the folder cannot be read: {error.strerror}", safe_text(error.filename or root)) from error
    class_names = tuple(sorted(set(chain.from_iterable(counts.values()))))
    folders = tuple((role, os.path.relpath(path, root)) for role, path in parts)
    return Origin(
        address=root,
        key=files.key,
        place=root,
        load=lambda _: _source(root, class_names, counts, files.ids, max_pixels),
        listing=files.listing,
        findings=(*finds.findings(), *_class_faults(class_names, counts, dict(folders))),
        folders=folders,
    )


def check_layout(folder: Path) -> None:
    """Check the names of the folders in `folder`, which takes milliseconds.

    Raises: UserError if it has neither splits nor classes.
    """
    root = str(folder.resolve())
    try:
        if not any(subfolders(path) for _, path in parts_of(root, Finds())):
            fault = _no_image()
            raise UserError(fault.text, safe_text(root), fault.remedy)
    except OSError as error:
        raise UserError(f"the folder cannot be read: {error.strerror}", safe_text(error.filename or root)) from error


def _source(root: str, class_names: tuple[str, ...], counts: dict[Role, Counts], ids: CompactIds, max_pixels: int) -> Source:
    numbers = [counts[role].get(name, 0) for role in counts for name in class_names]
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
    """The folder's name; not that of a named data set, which only the fingerprint of the images can tell."""
    name = safe_text(os.path.basename(root), 60) or "images"
    return f"{name}-folder" if name in DATASETS else name


def _no_image() -> Finding:
    endings = " ".join(sorted(suffixes()))
    remedy = f"expected CLASS/*, or train/CLASS/* and test/CLASS/*, with files {endings}"
    return Finding(kind="no_image", level="fault", text="no image in a class folder", number=1, remedy=remedy)


def _class_faults(class_names: tuple[str, ...], counts: dict[Role, Counts], folders: Mapping[Role, str]) -> list[Finding]:
    """Faults of the classes: empty, missing in a split, or only one; folders: that of each role."""
    if not any(chain.from_iterable(classes.values() for classes in counts.values())):
        return [_no_image()]
    faults = []
    for role, classes in counts.items():
        side = "" if role == "all" else f" in {role}"
        if empty := [name for name, number in classes.items() if not number]:
            text = f"{counted(len(empty), 'class', 'classes')} without images{side}"
            faults.append(_fault("empty_class", text, empty, "add images, or remove the folder", folders[role]))
        if missing := [name for name in class_names if name not in classes]:
            text = f"{counted(len(missing), 'class', 'classes')} missing in {role} but present in another split"
            remedy = "move some images of it there, or remove it from the other splits"
            faults.append(_fault("missing_class", text, missing, remedy, folders[role]))
    if len(class_names) < 2:
        text = "there is only one class, expected at least two"
        faults.append(_fault("one_class", text, class_names, "make one folder per class", next(iter(folders.values()))))
    return faults


def _fault(kind: str, text: str, names: Sequence[str], remedy: str, folder: str) -> Finding:
    """A fault of the classes `names`, in the folder of a split."""
    paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
    return Finding.of(kind, "fault", text, [repr(safe_text(name, 60)) for name in names], remedy=remedy, paths=paths)
