"""Every file below a folder that this process opens and reads: recorded, or failed.

`open`, `os.open` and `os.scandir` are replaced. What is mapped into memory is read by the kernel alone: of such
a file only the opening can fail here.
"""

import builtins
import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest


@dataclass(frozen=True, slots=True)
class Read:
    """kind: open, read or list (of a folder). path: absolute."""

    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind} {Path(self.path).name}"


@dataclass(frozen=True, slots=True)
class BadSector:
    """EIO at a read (from 1). stays: the same file fails from then on; otherwise it fails once."""

    number: int
    stays: bool

    def before(self, number: int, read: Read, seen: list[Read]) -> None:
        again = self.stays and number > self.number and read.path == seen[self.number - 1].path
        if number == self.number or again:
            names = () if read.kind == "read" else (read.path,)  # as the system: a descriptor has no name
            raise OSError(errno.EIO, os.strerror(errno.EIO), *names)


class Reads:
    """A context in which what this process reads below `root` is seen.

    before: called with the number of a read, from 1, the read, and all so far; may raise what it is to raise.
    """

    def __init__(self, root: Path, before: Callable[[int, Read, list[Read]], None] | None = None) -> None:
        self.root = os.path.realpath(root)
        self.seen: list[Read] = []
        self._before, self._pid = before, os.getpid()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "Reads":
        file, scan, real = builtins.open, os.scandir, os.open

        def open_file(path: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **named: Any) -> Any:
            if not set(mode) <= set("rbt") or (full := self._path_of(path)) is None:
                return file(path, mode, buffering, *arguments, **named)
            self._note("open", full)
            raw = _Raw(path, watch=self, path=full)
            if buffering == 0:
                return raw
            return io.BufferedReader(raw) if "b" in mode else io.TextIOWrapper(io.BufferedReader(raw), *arguments, **named)

        def scandir(path: Any = ".") -> Any:
            if not isinstance(path, int) and (full := self._path_of(path)) is not None:
                self._note("list", full)
            return scan(path)

        def open_descriptor(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            is_reading = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0 and dir_fd is None
            if is_reading and (full := self._path_of(path)) is not None and os.path.isfile(full):
                self._note("open", full)
            return real(path, flags, mode, dir_fd=dir_fd)

        for module, name, new in (
            *((builtins, "open", open_file), (io, "open", open_file)),
            *((os, "scandir", scandir), (os, "open", open_descriptor)),
        ):
            self._patch.setattr(module, name, new)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._patch.undo()

    def _note(self, kind: str, path: str) -> None:
        if os.getpid() != self._pid:
            return
        read = Read(kind, path)
        self.seen.append(read)
        if self._before is not None:
            self._before(len(self.seen), read, self.seen)

    def _path_of(self, path: Any) -> str | None:
        """The absolute path of a file or folder that is there, below the root."""
        if isinstance(path, int):
            return None
        full = os.path.normpath(os.path.join(os.getcwd(), os.fsdecode(path)))
        try:
            mode = os.stat(full).st_mode
        except (OSError, ValueError):
            return None
        if full.endswith("probe.json"):
            return None  # a cache: what cannot be read is measured anew, and may come out differently
        return full if full.startswith(self.root + os.sep) and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) else None


class _Raw(io.FileIO):
    """A file whose reads are noted."""

    def __init__(self, file: Any, *, watch: Reads, path: str) -> None:
        super().__init__(file, "r")
        self._watch, self._path = watch, path

    def readinto(self, buffer: Any, /) -> int:
        self._watch._note("read", self._path)
        return super().readinto(buffer)  # type: ignore[return-value]

    def readall(self) -> bytes:
        self._watch._note("read", self._path)
        return super().readall()  # type: ignore[return-value]

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        self._watch._note("read", self._path)
        return super().read(size)  # type: ignore[return-value]
