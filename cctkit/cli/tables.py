"""Where results are printed: stdout, through rich, with nothing in a name taken for markup."""

import json
from typing import TYPE_CHECKING, Any

from cctkit.rundir import finite

if TYPE_CHECKING:
    from rich.console import Console


def result_console() -> "Console":
    """A console on stdout; without colours under NO_COLOR or off a terminal."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout; what is not finite is null."""
    import sys

    sys.stdout.write(json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")
