"""A folder of images: `train/CLASS/*` beside `test/` or `val/`, or just `CLASS/*`."""

import hashlib
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from cctkit.catalog.datasets import DATASETS
from cctkit.config.size import MAX_PIXELS
from cctkit.data.preprocess import decode, suffixes
from cctkit.data.report.findings import Finding, Finds
from cctkit.data.source import ROLES, CompactIds, Origin, Progress, Role, Source
from cctkit.data.sources.layout import parts_of, subfolders
from cctkit.data.sources.scan import Counts, Entry, Scan
from cctkit.errors import UserError
from cctkit.text import counted, safe_text


class _Files:
    """All images of a folder, in order; of each only what stays: its id, and its share in two digests."""

    def __init__(self, root: str, max_pixels: int) -> None:
        self.ids = CompactIds()
        cap = b"" if max_pixels == MAX_PIXELS else b"%d\0" % max_pixels  # under another cap others are broken
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
        """See `Origin.key`: what `listing` names, the times of the files, and where they are."""
        return self._key.hexdigest()


def folder_origin(folder: Path, progress: Progress, *, max_pixels: int = MAX_PIXELS) -> Origin:
    """The images under `folder`, found but not read, in the order of class and id, and what else was found.

    Links are followed, but for those that lead to a folder above or to one of another class. Where there is no image, only one
    class, an empty class, or a class that one part lacks, the origin has faults.

    Raises: UserError where the folder is neither parts nor classes.
    """
    root = str(folder.resolve())
    files, finds = _Files(root, max_pixels), Finds()
    try:
        parts = parts_of(root, finds)
        counts = Scan(root, parts, finds).images(files.extend, progress)
    except OSError as error:
        raise UserError(f"the folder cannot be read: {error.strerror}", safe_text(error.filename or root)) from error
    class_names = tuple(sorted(set(chain.from_iterable(counts.values()))))
    findings = finds.findings()
    return Origin(
        address=root,
        key=files.key,
        place=root,
        load=lambda _: _source(root, class_names, counts, files.ids, max_pixels),
        listing=files.listing,
        findings=(*findings, *_class_faults(class_names, counts)),
        folders=tuple((role, os.path.relpath(path, root)) for role, path in parts),
    )


def check_layout(folder: Path) -> None:
    """What the names of the folders in `folder` tell at once.

    Raises: UserError where it is neither parts nor classes.
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
    """The folder's own name; that of a named data set makes no folder one: only its images' fingerprint does."""
    name = safe_text(os.path.basename(root), 60) or "images"
    return f"{name}-folder" if name in DATASETS else name


def _no_image() -> Finding:
    endings = " ".join(sorted(suffixes()))
    remedy = f"expected CLASS/*, or train/CLASS/* and test/CLASS/*, of {endings}"
    return Finding(kind="no_image", level="fault", text="there is no image in a class folder in it", number=1, remedy=remedy)


def _class_faults(class_names: tuple[str, ...], counts: dict[Role, Counts]) -> list[Finding]:
    """Where the classes are not the same in every part, each with images."""
    if not any(chain.from_iterable(classes.values() for classes in counts.values())):
        return [_no_image()]
    faults = []
    for role, classes in counts.items():
        side = "" if role == "all" else f" in {role}"
        if empty := [name for name, number in classes.items() if not number]:
            text = f"no image{side} of {counted(len(empty), 'class', 'classes')}"
            faults.append(_fault("empty_class", text, empty, "remove its folder, or fill it"))
        if missing := [name for name in class_names if name not in classes]:
            text = f"{role} lacks {counted(len(missing), 'class', 'classes')} of another part"
            faults.append(_fault("missing_class", text, missing, "give every part the same class folders"))
    if len(class_names) < 2:
        faults.append(_fault("one_class", "there is only one class, expected at least two", class_names, "one folder a class"))
    return faults


def _fault(kind: str, text: str, names: Sequence[str], remedy: str) -> Finding:
    return Finding.of(kind, "fault", text, [repr(safe_text(name, 60)) for name in names], remedy=remedy)
