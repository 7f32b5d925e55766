"""The image files that a command names: files, folders, patterns such as `*.jpg`, and lists of paths."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from cctkit.data.preprocess import suffixes
from cctkit.data.sources.layout import is_folder, visible
from cctkit.errors import UserError
from cctkit.text import counted, safe_text

STDIN = "-"
_MAGIC = "*?["
_LONGEST_PATH = 2**16


class ImageFile(NamedTuple):
    """A file to classify.

    name: the path inside the folder that was named; the file's name if the file itself was.
    error: why it cannot be classified, if that is known already.
    """

    path: str
    name: str
    error: str | None = None


class Inputs:
    """The image files that `arguments` name, in order; each iteration looks for them again. Constant memory per folder.

    A folder is searched at any depth for files that end like an image; a file that is named is read whatever its ending.

    stdin: the list of paths that `-` stands for, one per line.
    ignored: number of files in folders that do not end like an image, by ending.
    """

    def __init__(self, arguments: Sequence[str], *, stdin: BinaryIO | None) -> None:
        self.arguments, self.stdin = arguments, stdin
        self.ignored: Counter[str] = Counter()

    def count(self) -> int | None:
        """The number of images; None with a list on stdin, which is read only once.

        Raises: UserError if there is no image.
        """
        if STDIN in self.arguments:
            return None
        number, found = 0, False
        for file in self:
            number += 1
            found = found or file.error is None
        if not found:
            raise UserError(
                "found no image",
                ", ".join(map(safe_text, self.arguments[:3])) + (", ..." if len(self.arguments) > 3 else ""),
                "name image files, folders of images, or patterns such as 'photos/*.jpg'",
            )
        return number

    def __iter__(self) -> Iterator[ImageFile]:
        """Raises: UserError if the list on stdin cannot be read, or is empty."""
        self.ignored.clear()
        for argument in self.arguments:
            if argument == STDIN:
                yield from self._listed()
            elif os.path.lexists(argument) or not any(character in argument for character in _MAGIC):
                yield from self._named(argument)
            else:
                yield from self._matching(argument)

    def _named(self, path: str) -> Iterator[ImageFile]:
        """A file, or the images of a folder."""
        try:
            is_directory = os.path.isdir(path)
        except ValueError:  # a NUL in it
            is_directory = False
        if is_directory:
            found = self._inside(path)
            first = next(found, None)
            yield ImageFile(path, os.path.basename(path), "no image in this folder") if first is None else first
            yield from found
        else:
            there = "\0" not in path and os.path.lexists(path)
            yield ImageFile(path, os.path.basename(path), None if there else "no such file or folder")

    def _inside(self, folder: str) -> Iterator[ImageFile]:
        return self._under(folder, "", (os.path.realpath(folder),))

    def _under(self, folder: str, inside: str, above: tuple[str, ...]) -> Iterator[ImageFile]:
        """The images of a folder and of those in it, by name. Links are followed, except to a folder above.

        inside: the path from the folder that was named; above: the real paths of this folder and of those above it.
        """
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, is_folder(entry)) for entry in entries if visible(entry.name))
        except OSError as error:
            yield ImageFile(folder, inside, safe_text(error.strerror or error))
            return
        for name, is_directory in found:
            path, name_inside = os.path.join(folder, name), os.path.join(inside, name)
            if is_directory:
                real = os.path.realpath(path)
                if real not in above:
                    yield from self._under(path, name_inside, (*above, real))
            elif self._is_image(name):
                yield ImageFile(path, name_inside)

    def _matching(self, pattern: str) -> Iterator[ImageFile]:
        """What a pattern matches; folders too, unless it has `**`, which matches what is in them."""
        any_match = False
        for path in sorted(glob.glob(pattern, recursive=True)):
            found: Iterator[ImageFile] = iter(())
            if os.path.isdir(path):
                if "**" not in pattern:
                    found = self._inside(path)
            elif self._is_image(path):
                found = iter([ImageFile(path, os.path.basename(path))])
            for file in found:
                any_match = True
                yield file
        if not any_match:
            yield ImageFile(pattern, pattern, "no image matches this pattern")

    def _is_image(self, name: str) -> bool:
        ending = os.path.splitext(name)[1].lower()
        if ending in suffixes():
            return True
        self.ignored[ending] += 1
        return False

    def _listed(self) -> Iterator[ImageFile]:
        first = True
        for line in self._lines():
            if path := os.fsdecode(line.rstrip(b"\r\n")):
                first = False
                yield from self._named(path)
        if first:
            raise UserError("the list of images is empty", "stdin", "expected one path per line")

    def _lines(self) -> Iterator[bytes]:
        try:
            if self.stdin is None:
                raise OSError("it is closed")
            while line := self.stdin.readline(_LONGEST_PATH):
                if len(line) == _LONGEST_PATH:
                    raise ValueError(f"a line of more than {_LONGEST_PATH:,} bytes is no path")
                yield line
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read the list of images: {safe_text(error)}", "stdin", "expected one path per line"
            ) from error

    def note(self) -> str | None:
        """Which files in folders were ignored, in a line; None: none."""
        if not self.ignored:
            return None
        number = self.ignored.total()
        kinds = ", ".join(f"{safe_text(ending or 'without ending')} {count:,}" for ending, count in self.ignored.most_common(5))
        return f"ignored in folders: {counted(number, 'file')} without the ending of an image ({kinds})"
