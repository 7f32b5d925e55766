"""Names from outside (classes, files, metadata) made safe to print, and the nearest known name to a mistyped one."""

import difflib
import unicodedata
from collections.abc import Iterable

# Cc control, Cf format (bidi overrides, zero-width), Cs surrogate, Co private, Cn unassigned, Zl and Zp separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe_text(text: object, max_length: int = 200) -> str:
    r"""`text` with control, bidi, newline and surrogate characters escaped (`\x1b`, `\u202e`), at most `max_length` long."""
    escaped = "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in _UNPRINTABLE else character
        for character in str(text)
    )
    return escaped if len(escaped) <= max_length else escaped[: max_length - 1] + "…"


def counted(number: int, noun: str) -> str:
    """`1 epoch`, `1,000 epochs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known names most like `name`, best first; empty where none is like it."""
    by_folded = {each.casefold(): each for each in known}
    return [by_folded[found] for found in difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)]
