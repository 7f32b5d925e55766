"""Every state that a power cut may leave of what a writer has done, as ALICE builds them, and whether work goes on from it.

An fsync makes the contents of a file, or the names in a directory, durable; nothing else does. Of what is not durable any part
may be lost: the whole, the end of a file, or each name by itself. Source: Pillai et al., "All File Systems Are Not Created
Equal: On the Complexity of Crafting Crash-Consistent Applications", OSDI 2014.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.robustness.operations import Operation


@dataclass(slots=True, eq=False)
class _File:
    """changes: writes (offset, data) and truncations (length, None), of which the first `durable` are on the disk."""

    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    durable: int = 0
    _made: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def contents(self, kept: int, *, end: str = "") -> bytes:
        """After the first `kept` changes; `end`: the next one is half there (torn), or zeros stand in its place.

        One object for equal arguments, whose hash is computed once.
        """
        if (kept, end) not in self._made:
            self._made[kept, end] = self._contents(kept, end)
        return self._made[kept, end]

    def _contents(self, kept: int, end: str) -> bytes:
        data = bytearray()
        for number, (offset, piece) in enumerate(self.changes[: kept + bool(end)]):
            if piece is None:
                del data[offset:]
                data.extend(bytes(offset - len(data)))
                continue
            if number == kept:
                piece = bytes(len(piece)) if end == "zeros" else piece[: len(piece) // 2]
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + len(piece)] = piece
        return bytes(data)


@dataclass(slots=True, eq=False)
class _Change:
    """A change of the names in a directory: `gone` is removed, then `name` is `node`."""

    gone: str = ""
    name: str = ""
    node: "_File | _Folder | None" = None


@dataclass(slots=True, eq=False)
class _Folder:
    """changes: of its names, in order, of which the first `durable` are on the disk."""

    changes: list[_Change] = field(default_factory=list)
    durable: int = 0

    def names(self, kept: Sequence[_Change]) -> "dict[str, _File | _Folder]":
        found: dict[str, _File | _Folder] = {}
        for change in kept:
            found.pop(change.gone, None)
            if change.node is not None:
                found[change.name] = change.node
        return found


State = dict[str, bytes | None]
"""The contents of each file by its path, relative to the root; None for a directory."""


class Disk:
    """The disk below a folder: what a program sees there, and how much of it is durable."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._top = _Folder()

    def begin(self, folder: Path) -> None:
        """What is there is durable."""
        for path in sorted(folder.rglob("*")):
            kind = "mkdir" if path.is_dir() else "create"
            self.apply(Operation(kind=kind, path=str(path)))
            if not path.is_dir():
                self.apply(Operation(kind="write", path=str(path), data=path.read_bytes()))
        for node in self._nodes():
            node.durable = len(node.changes)

    def apply(self, operation: Operation) -> None:
        """Carry out an operation, as the program sees it."""
        if operation.path == self._root:
            if operation.kind == "sync_directory":
                self._top.durable = len(self._top.changes)
            return
        folder, name = self._at(operation.path)
        node = folder.names(folder.changes).get(name)
        match operation.kind:
            case "create" | "mkdir":
                folder.changes.append(_Change(name=name, node=_File() if operation.kind == "create" else _Folder()))
            case "unlink" | "rmdir":
                folder.changes.append(_Change(gone=name))
            case "rename":
                there, new = self._at(operation.target)
                if there is folder:
                    folder.changes.append(_Change(gone=name, name=new, node=node))
                else:
                    there.changes.append(_Change(name=new, node=node))
                    folder.changes.append(_Change(gone=name))
            case "sync" | "sync_directory":
                assert node is not None, operation
                node.durable = len(node.changes)
            case "write" | "truncate":
                assert isinstance(node, _File), operation
                node.changes.append((operation.offset, operation.data if operation.kind == "write" else None))

    def _at(self, path: str) -> tuple[_Folder, str]:
        *folders, name = path[len(self._root) + 1 :].split("/")
        here = self._top
        for each in folders:
            found = here.names(here.changes)[each]
            assert isinstance(found, _Folder)
            here = found
        return here, name

    def _nodes(self) -> Iterator[_File | _Folder]:
        found: list[_File | _Folder] = [self._top]
        for node in found:
            if isinstance(node, _Folder):
                found += [change.node for change in node.changes if change.node is not None and change.node not in found]
        return iter(found)

    def states(self, generator: random.Random, *, draws: int = 2) -> Iterator[tuple[str, State]]:
        """What a power cut may leave now, each with how it came about: all, nothing, all but one, one alone, `draws` mixed."""
        pending = [
            (node, change) for node in self._nodes() if isinstance(node, _Folder) for change in node.changes[node.durable :]
        ]
        every = {id(change) for _, change in pending}
        yield "all is there", self._state(every, files="all")
        yield "what is not synced is lost", self._state(set(), files="durable")
        yield "names without contents", self._state(every, files="durable")
        yield "names, torn contents", self._state(every, files="torn")
        yield "names, zeros", self._state(every, files="zeros")
        yield "contents without names", self._state(set(), files="all")
        for number, (_, change) in enumerate(pending):
            yield f"all names but that of change {number + 1}", self._state(every - {id(change)}, files="all")
            yield f"the name of change {number + 1} alone", self._state({id(change)}, files="all")
        for number in range(draws if pending else 0):
            some = {each for each in every if generator.random() < 0.5}
            yield f"draw {number + 1}", self._state(some, files=generator.choice(("all", "durable", "torn")))

    def _state(self, kept: set[int], *, files: str) -> State:
        state: State = {}

        def walk(folder: _Folder, prefix: str) -> None:
            changes = [c for number, c in enumerate(folder.changes) if number < folder.durable or id(c) in kept]
            for name, node in folder.names(changes).items():
                if isinstance(node, _Folder):
                    state[prefix + name] = None
                    walk(node, f"{prefix}{name}/")
                else:
                    state[prefix + name] = _contents(node, files)

        walk(self._top, "")
        return state


def _contents(file: _File, files: str) -> bytes:
    if files == "all":
        return file.contents(len(file.changes))
    lost = len(file.changes) > file.durable
    return file.contents(file.durable, end=files if lost and files in ("torn", "zeros") else "")


def write_state(state: State, folder: Path) -> None:
    """Make `folder` what the state says."""
    folder.mkdir()
    for name, data in sorted(state.items()):
        if data is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(data)
