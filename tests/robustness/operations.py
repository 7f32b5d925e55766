"""Every file operation of this process below a folder: recorded, failed, or the moment of a kill or a signal.

The functions of `os` and `open` are replaced; files opened for writing have a raw file below their buffer that sees the writes
as the system does. Python alone writes what cctkit writes, so nothing is missed.
"""

import builtins
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_WRITING = set("wax+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A change of the file system, or an fsync.

    kind: create, write, truncate, sync, sync_directory, rename, unlink, mkdir or rmdir.
    path: absolute.
    target: of a rename.
    data, offset: of a write; the offset of a truncation is the new length.
    """

    kind: str
    path: str
    target: str = ""
    data: bytes = b""
    offset: int = 0

    def __str__(self) -> str:
        name = Path(self.path).name + (f" to {Path(self.target).name}" if self.target else "")
        return f"{self.kind} {name}" + (f" ({len(self.data)} bytes)" if self.data else "")


Before = Callable[[int, Operation, Callable[[int], None]], None]
"""Called before operation `number` (from 1) with a function that carries out the first so many bytes of a write."""


class Operations:
    """A context in which operations below `root` are seen, of this process and not of those that it forks.

    before: may raise what the operation is to raise, or never return.
    """

    def __init__(self, root: Path, before: Before | None = None) -> None:
        self.root = os.path.realpath(root)
        self.seen: list[Operation] = []
        self._before = before
        self._pid = os.getpid()
        self._real: dict[str, Any] = {}

    def __enter__(self) -> "Operations":
        names = ("open", "fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir")
        self._real = {name: getattr(os, name) for name in names} | {"file": builtins.open}
        for name in names:
            setattr(os, name, getattr(self, f"_{name}"))
        builtins.open = io.open = self._file  # type: ignore[assignment]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        builtins.open = io.open = self._real.pop("file")
        for name, real in self._real.items():
            setattr(os, name, real)

    def note(self, operation: Operation, write: Callable[[int], None] = lambda _: None) -> None:
        """`operation` is about to be carried out."""
        if os.getpid() != self._pid:
            return
        self.seen.append(operation)
        if self._before is not None:
            self._before(len(self.seen), operation, write)

    def path_of(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path below the root; None if it is elsewhere."""
        if isinstance(path, int):
            full = os.readlink(f"/proc/self/fd/{path}")
        else:
            folder = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            full = os.path.normpath(os.path.join(folder, os.fsdecode(path)))
        return full if full == self.root or full.startswith(self.root + os.sep) else None

    def _note_at(self, kind: str, path: Any, dir_fd: int | None = None) -> None:
        full = self.path_of(path, dir_fd)
        if full is not None:
            self.note(Operation(kind=kind, path=full))

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        full = self.path_of(path, dir_fd)
        if full is not None and flags & os.O_CREAT and _can_be_made(full):
            self.note(Operation(kind="create", path=full))
        return self._real["open"](path, flags, mode, dir_fd=dir_fd)  # type: ignore[no-any-return]

    def _fsync(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        self._note_at("sync_directory" if stat.S_ISDIR(os.fstat(number).st_mode) else "sync", number)
        self._real["fsync"](number)

    def _moved(self, name: str, source: Any, target: Any, **places: Any) -> None:
        before, after = self.path_of(source, places.get("src_dir_fd")), self.path_of(target, places.get("dst_dir_fd"))
        if before is not None and after is not None:
            self.note(Operation(kind="rename", path=before, target=after))
        self._real[name](source, target, **places)

    def _rename(self, source: Any, target: Any, **places: Any) -> None:
        self._moved("rename", source, target, **places)

    def _replace(self, source: Any, target: Any, **places: Any) -> None:
        self._moved("replace", source, target, **places)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        if (full := self.path_of(path, dir_fd)) is not None and os.path.lexists(full):
            self.note(Operation(kind="unlink", path=full))
        self._real["unlink"](path, dir_fd=dir_fd)

    _remove = _unlink

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if (full := self.path_of(path, dir_fd)) is not None and _can_be_made(full):
            self.note(Operation(kind="mkdir", path=full))
        self._real["mkdir"](path, mode, dir_fd=dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        if (full := self.path_of(path, dir_fd)) is not None and os.path.isdir(full) and not os.listdir(full):
            self.note(Operation(kind="rmdir", path=full))
        self._real["rmdir"](path, dir_fd=dir_fd)

    def _file(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **named: Any) -> Any:
        """`open`, with a raw file that is watched if it is written to."""
        path = self.path_of(file) if _WRITING & set(mode) else None
        if path is None:
            return self._real["file"](file, mode, buffering, *arguments, **named)
        if not isinstance(file, int) and _can_be_made(path) and mode[0] != "r":
            self.note(Operation(kind="create", path=path))
        elif mode[0] == "w" and os.path.isfile(path):
            self.note(Operation(kind="truncate", path=path))
        raw = _Raw(file, "".join(sorted(set(mode) - set("bt"), key="wxar+".index)), watch=self, path=path)
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)  # type: ignore[type-var]
        return buffer if "b" in mode else io.TextIOWrapper(buffer, *arguments, **named)


def _can_be_made(path: str) -> bool:
    return not os.path.lexists(path) and os.path.isdir(os.path.dirname(path))


class _Raw(io.FileIO):
    """A file whose writes are noted."""

    def __init__(self, file: Any, mode: str, *, watch: Operations, path: str) -> None:
        super().__init__(file, mode)
        self._watch, self._path, self._appends = watch, path, "a" in mode

    def write(self, data: Any, /) -> int:
        held = bytes(data)
        offset = os.fstat(self.fileno()).st_size if self._appends else self.tell()
        operation = Operation(kind="write", path=self._path, data=held, offset=offset)
        self._watch.note(operation, lambda count: self._begin(held[:count]))
        return super().write(held)

    def _begin(self, data: bytes) -> None:
        io.FileIO.write(self, data)

    def truncate(self, size: int | None = None, /) -> int:
        length = self.tell() if size is None else size
        self._watch.note(Operation(kind="truncate", path=self._path, offset=length))
        return super().truncate(length)
