"""Findings about the files of a data set: ignored files, warnings, and faults that prevent training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cctkit.errors import UserError
from cctkit.text import counted, safe_text

NAMED = 20
"""Number of names kept per kind."""
_IN_MESSAGE = 3
_IN_LINE = 4
_NAME_LENGTH = 200

Level = Literal["ignored", "warning", "fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of thing that was found.

    kind: a name for programs.
    level: ignored (harmless), warning (may worsen results) or fault (prevents training).
    text: what it is, with its number.
    number: how often it was found.
    names: the first 20 names, safe to print.
    remedy: how to fix it.
    paths: the files and folders, if `names` says more than their paths.
    """

    kind: str
    level: Level
    text: str
    number: int
    names: tuple[str, ...] = ()
    remedy: str | None = None
    paths: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        kind: str,
        level: Level,
        text: str,
        names: Sequence[str],
        *,
        number: int = 0,
        remedy: str | None = None,
        paths: Sequence[str] = (),
    ) -> "Finding":
        """Make a finding with printable names; number: the total, if `names` is incomplete."""
        shown = tuple(safe_text(name, _NAME_LENGTH) for name in names[:NAMED])
        total = number or len(names)
        return cls(kind=kind, level=level, text=text, number=total, names=shown, remedy=remedy, paths=tuple(paths))

    def lines(self) -> list[str]:
        """Lines to print: one with the first names, or one per name if the user must fix something."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        if self.level == "fault" or self.kind == "broken":
            more = self.number - len(self.names)
            named = [*self.names, *([f"and {more:,} more"] if more and self.names else [])]
            return [f"  {self.level}: {self.text}{remedy}", *(f"    {name}" for name in named)]
        shown = ", ".join(self.names[:_IN_LINE]) + (", ..." if self.number > _IN_LINE else "")
        return [f"  {self.level}: {self.text}{remedy}" + (f": {shown}" if shown else "")]

    def in_short(self, most: int = _IN_MESSAGE) -> str:
        """One line: the text and the first few names."""
        if not self.names:
            return self.text
        more = "; ..." if self.number > min(most, len(self.names)) else ""
        return f"{self.text}: {'; '.join(self.names[:most])}{more}"


class FaultsError(UserError):
    """A data set cannot be used.

    faults: all faults; the message names the first of each kind.
    beside: other findings, which may be the cause.
    """

    def __init__(self, faults: Sequence[Finding], where: str, beside: Sequence[Finding] = ()) -> None:
        remedies = dict.fromkeys(fault.remedy for fault in faults if fault.remedy)
        super().__init__("; ".join(fault.in_short() for fault in faults), where, "; ".join(remedies) or None)
        self.faults, self.beside = tuple(faults), tuple(beside)

    def __reduce__(self) -> tuple[Any, ...]:  # a loader worker sends it
        return FaultsError, (self.faults, self.where, self.beside)

    @property
    def is_short(self) -> bool:
        """Whether the message contains all findings."""
        return len(self.faults) == 1 and self.faults[0].number <= _IN_MESSAGE and not self.beside


class Finds:
    """Counts what a scan finds besides images.

    most: number of paths to keep per kind; None: all.
    """

    def __init__(self, most: int | None = NAMED) -> None:
        self._most = most
        self._names: dict[str, list[str]] = {}
        self._numbers: Counter[str] = Counter()
        self._endings: dict[str, Counter[str]] = {}

    def add(self, kind: str, name: str, *, ending: str = "") -> None:
        self._numbers[kind] += 1
        names = self._names.setdefault(kind, [])
        if self._most is None or len(names) < self._most:
            names.append(name)
        self._endings.setdefault(kind, Counter())[ending or "no ending"] += 1

    def findings(self) -> list[Finding]:
        """In the order of `_TELLING`."""
        return [
            Finding.of(
                kind,
                level,
                text.format(counted(self._numbers[kind], noun), endings=self._by_ending(kind)),
                self._names[kind],
                number=self._numbers[kind],
                remedy=remedy,
                paths=self._names[kind],
            )
            for kind, (level, noun, text, remedy) in _TELLING.items()
            if self._numbers[kind]
        ]

    def _by_ending(self, kind: str) -> str:
        found = self._endings[kind].most_common()
        shown = ", ".join(f"{safe_text(ending, 20)} {number:,}" for ending, number in found[:6])
        return shown if len(found) <= 6 else f"{shown}, ..."


# Kind -> level, noun, text of its number and endings, remedy.
_TELLING: dict[str, tuple[Level, str, str, str | None]] = {
    "unreadable_folder": ("fault", "folder", "{} cannot be read", "give read access, or remove it"),
    "unread_format": (
        "warning",
        "image",
        "{} in unsupported formats ({endings})",
        "convert them to PNG or JPEG",
    ),
    "link": (
        "warning",
        "link",
        "{} not followed, to a parent folder or another class",
        "copy the images, or remove the link",
    ),
    "outside": ("warning", "image", "{} outside the class folders", "move images into the folder of their class"),
    "beside": ("ignored", "folder", "{} beside the splits", None),
    "other_file": ("ignored", "other file", "{} ({endings})", None),
    "hidden": ("ignored", "hidden file or folder", "{}", None),
}


def broken_images(bad: Sequence[str], *, level: Level, remedy: str | None) -> Finding:
    """Finding for images that cannot be used; `bad` lists them with their reasons."""
    text = counted(len(bad), "broken image")
    return Finding.of("broken", level, text if level == "fault" else f"{text} skipped", bad, remedy=remedy)
