"""Prints results on stdout: tables, text and JSON."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from cctkit.text import json_text, terminal_width, wrapped

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def result_console() -> "Console":
    """A console on stdout, without colours if NO_COLOR is set or stdout is no terminal."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def print_wide(make: Callable[[int | None], "RenderableType"]) -> None:
    """Print `make(width)`.

    width: that of the terminal; None (unlimited) if stdout is no terminal: then without trailing spaces.
    """
    console = result_console()
    if console.is_terminal:
        console.print(make(console.width))
        return
    console.width = 10_000
    with console.capture() as captured:
        console.print(make(None))
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document on stdout, on one line if `indent` is None."""
    takes_all = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    sys.stdout.write(json_text(value, indent=indent, ascii_only=not takes_all) + "\n")


def print_text(text: str, *, stream: TextIO | None = None) -> None:
    """Print text on stdout or another stream; on a terminal lines break only between words."""
    out = stream or sys.stdout
    out.write((wrapped(text, terminal_width(), further="  ") if out.isatty() else text) + "\n")
