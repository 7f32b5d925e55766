"""Text as it is printed: names from outside made safe, lines that fit a terminal, the nearest known name to a mistyped one."""

import difflib
import json
import shutil
import textwrap
import unicodedata
from collections.abc import Iterable
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

    Any string comes back from it as it was, lone surrogates (of file names that are no UTF-8) too.
    """
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, ensure_ascii=ascii_only)
    return "".join(_json_escape(each) if each != "\n" and not each.isprintable() else each for each in text)


def _json_escape(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def csv_cell(value: Any) -> Any:
    """A cell for a CSV file; text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 epoch`, `1,000 epochs`; plural: where it has no mere s more."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known names most like `name`, best first; empty where none is like it."""
    by_folded = {each.casefold(): each for each in known}
    return [by_folded[found] for found in difflib.get_close_matches(name.casefold(), by_folded, n=count, cutoff=0.5)]


def terminal_width() -> int:
    """The columns of the terminal, at most 100; those of COLUMNS in the environment go before, without either they are 80."""
    return min(shutil.get_terminal_size().columns, _WIDEST)


def wrapped(text: str, width: int, *, further: str = "") -> str:
    """`text` in lines of at most `width` columns that break between words alone: a longer word, such as a path, stays whole.

    Lines of `text` stay lines; what goes on in the next one is indented as they are, and by `further`.
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
