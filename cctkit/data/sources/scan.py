"""Find every image file in the class folders, and what else there is."""

import os
from collections.abc import Callable, Iterator, Sequence

from cctkit.data.preprocess import suffixes
from cctkit.data.report.findings import Finds
from cctkit.data.source import Progress, Role
from cctkit.data.sources.layout import Part, is_folder, subfolders, visible

Entry = tuple[str, int, int]
"""Id (the path inside the folder), size in bytes, modification time in ns."""
Counts = dict[str, int]
"""Images of each class."""

# Image formats that are not supported, although Pillow reads some of them.
_OTHER_FORMATS = frozenset(
    {
        *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".tga", ".ico", ".icns", ".svg", ".eps"),
        *(".pbm", ".pnm", ".pcx", ".dib", ".dds", ".exr", ".hdr", ".psd", ".xcf", ".raw", ".dng", ".cr2", ".cr3", ".nef"),
        *(".arw", ".orf", ".rw2", ".raf", ".dcm", ".nii", ".fits", ".npy", ".npz", ".apng", ".jif", ".mng"),
    }
)
_OF_SYSTEMS = {"thumbs.db", "desktop.ini", ".ds_store"}


class Scan:
    """The class folders of some splits; through links too, a folder belongs to one class only."""

    def __init__(self, root: str, parts: Sequence[Part], finds: Finds) -> None:
        self._root, self._real_root, self._finds = root, os.path.realpath(root), finds
        self._start = len(root.rstrip(os.sep)) + 1
        self._owners: dict[str, str] = {}  # the real path of a class folder -> its class
        found = {part: subfolders(part[1]) for part in parts}
        # Links last: a folder belongs to its own class, in whatever order the names come.
        for links in (False, True):
            for folders in found.values():
                for name, path in folders:
                    if os.path.islink(path) == links and self._may_enter(path, os.path.realpath(os.path.dirname(path)), name):
                        self._owners.setdefault(os.path.realpath(path), name)
        self._parts: list[tuple[Role, str, list[tuple[str, str]]]] = [(*part, self._own(found[part])) for part in parts]

    def _own(self, folders: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The class folders without links to another class or a parent folder."""
        kept = []
        for name, path in folders:
            if self._owners.get(os.path.realpath(path)) == name:
                kept.append((name, path))
            else:
                self._finds.add("link", self._id(path))
        return kept

    def images(self, found: Callable[[Role, str, list[Entry]], None], progress: Progress) -> dict[Role, Counts]:
        """Count the images of each class in each split; `found` is called with those of each class."""
        counts: dict[Role, Counts] = {}
        for role, part, folders in self._parts:
            self._look_beside(part)
            counts[role] = {}
            for done, (name, path) in enumerate(folders):
                progress("looking for images (classes)", done, len(folders))
                entries = sorted(self._under(path, name, set()))
                found(role, name, entries)
                counts[role][name] = len(entries)
        return counts

    def _look_beside(self, part: str) -> None:
        """Note files outside the class folders: directly in the split, or in the data set's folder."""
        for folder in dict.fromkeys((self._root, part)):
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if not visible(entry.name):
                        self._note(entry)
                    elif not is_folder(entry):
                        is_image = _ending(entry.name) in suffixes()
                        self._finds.add("outside", self._id(entry.path)) if is_image else self._note(entry)

    def _under(self, folder: str, class_name: str, seen: set[str]) -> Iterator[Entry]:
        """Yield every image at any depth; a folder that is reached more than once is read once."""
        real = os.path.realpath(folder)
        if real in seen:
            return
        seen.add(real)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self._finds.add("unreadable_folder", f"{self._id(folder)}: {error.strerror}")
            return
        for entry in entries:
            if not visible(entry.name):
                self._note(entry)
            elif is_folder(entry):
                if self._may_enter(entry.path, real, class_name):
                    yield from self._under(entry.path, class_name, seen)
                else:
                    self._finds.add("link", self._id(entry.path))
            elif _ending(entry.name) in suffixes():
                yield self._id(entry.path).replace(os.sep, "/"), *_facts(entry)
            else:
                self._note(entry)

    def _may_enter(self, path: str, real_parent: str, class_name: str) -> bool:
        """Whether a folder is neither a parent of the one being read nor another class's; links can lead there."""
        real = os.path.realpath(path)
        if any(_is_within(read, real) for read in (real_parent, self._real_root)):
            return False
        while real != os.path.dirname(real):
            if self._owners.get(real, class_name) != class_name:
                return False
            real = os.path.dirname(real)
        return True

    def _note(self, entry: "os.DirEntry[str]") -> None:
        ending = _ending(entry.name)
        if entry.name.lower() in _OF_SYSTEMS:
            return
        kind = "hidden" if not visible(entry.name) else "unread_format" if ending in _OTHER_FORMATS else "other_file"
        self._finds.add(kind, self._id(entry.path), ending=ending)

    def _id(self, path: str) -> str:
        return path[self._start :]


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _facts(entry: "os.DirEntry[str]") -> tuple[int, int]:
    """Size and modification time; 0 for a dangling link, which becomes a broken image."""
    try:
        facts = entry.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns
