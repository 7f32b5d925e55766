"""Text for printing: escaping, wrapping, JSON and CSV, similar names."""

import difflib
import json
import math
import shutil
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

_WIDEST = 100  # columns, of running text
# Cc control, Cf format (bidi overrides, zero-width), Cs surrogate, Co private, Cn unassigned, Zl and Zp separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe_text(text: object, max_length: int = 200) -> str:
    r"""`text` with control, bidi, newline and surrogate characters escaped (`\x1b`, `\u202e`), at most `max_length` long."""
    escaped = "".join(
        character.encode("unicode_escape").decode("ascii") if unicodedata.category(character) in _UNPRINTABLE else character
        for character in str(text)
    )
    return escaped if len(escaped) <= max_length else escaped[: max_length - 1] + "…"


def json_text(value: Any, *, indent: int | None = None, sort_keys: bool = False, ascii_only: bool = False) -> str:
    r"""`value` as JSON that is readable and safe to print: in strings the characters that `safe_text` escapes are `\uXXXX`.

    Loading it gives back every string unchanged, including lone surrogates (of file names that are not UTF-8). Numbers that
    are not finite become null.
    """
    text = json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, ensure_ascii=ascii_only)
    return "".join(_json_escape(each) if each != "\n" and not each.isprintable() else each for each in text)


def _finite(value: Any) -> Any:
    """`value` with None for each NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _json_escape(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def csv_cell(value: Any) -> Any:
    """A cell for a CSV file; text that a spreadsheet would read as a formula gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 epoch`, `1,000 epochs`. plural: default `noun` + "s"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """At most `count` known names that are similar to `name`, best first."""
    by_folded = {each.casefold(): each for each in known}
    return [by_folded[found] for found in difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)]


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The remedy for an unknown name: the similar known ones, or `otherwise` if there are none."""
    found = nearest(name, known)
    return f"did you mean {' or '.join(found)}?" if found else otherwise


def terminal_width() -> int:
    """Width of the terminal in characters, at most 100; COLUMNS in the environment overrides it; 80 if unknown."""
    return min(shutil.get_terminal_size().columns, _WIDEST)


def wrapped(text: str, width: int, *, further: str = "") -> str:
    """`text` in lines of at most `width` characters that break only between words; a longer word, such as a path, stays whole.

    Line breaks of `text` stay; continuation lines have the indentation of their line, and `further`.
    """
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent=" " * (len(line) - len(line.lstrip())) + further,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )
