"""Where results are printed: stdout, through rich, with nothing in a name taken for markup."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cctkit.rundir import finite

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def result_console() -> "Console":
    """A console on stdout; without colours under NO_COLOR or off a terminal."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def print_wide(make: Callable[[int | None], "RenderableType"]) -> None:
    """Print what `make` gives for the width of the terminal, or for any width (None) off a terminal, then without
    spaces at the ends of lines.
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
    """One JSON document on stdout, on one line where `indent` is None; what is not finite is null."""
    sys.stdout.write(json.dumps(finite(value), indent=indent, ensure_ascii=False) + "\n")
