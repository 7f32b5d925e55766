"""How often a promise was tried and held, and what repeats each trial."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Tally:
    """One row of the table.

    promise: its number, of the twelve.
    name: what was tried.
    failures: the seed of a trial, and what went wrong.
    note: what else is to be said of the row.
    """

    promise: int
    name: str
    seed: int
    tried: int = 0
    survived: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    note: str = ""

    def add(self, seed: int, faults: Iterable[str], *, count: int = 1) -> None:
        """`count` trials of this seed, which all failed if there are faults."""
        found = list(faults)
        self.tried += count
        self.survived += 0 if found else count
        self.failures += [(seed, fault) for fault in found]


Check = Callable[[int, int, Path], Tally]
"""A check of (seed, count, an empty folder): `count` trials, each from the seed after that of the one before."""


def table(tallies: Iterable[Tally]) -> str:
    """The table of a long run, with a line for each failure below it."""
    rows = [("promise", "what", "tried", "survived", "seed", "")]
    rows += [(str(t.promise), t.name, f"{t.tried:,}", f"{t.survived:,}", str(t.seed), t.note) for t in tallies]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  ".join(
            cell.rjust(width) if column in (0, 2, 3, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [f"failed: {t.name} --seed {seed} --count 1: {fault}" for t in tallies for seed, fault in t.failures]
    return "\n".join(lines)
