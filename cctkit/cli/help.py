"""Help pages as plain text: one section per panel, with lines that break only between words."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from cctkit.text import terminal_width, wrapped

_GAP = 2
_FIRST_COLUMN = 26  # longer terms have a line of their own


class HelpCommand(TyperCommand):
    """A command whose help lists its options in one section per panel."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_head(self, ctx) + sections(_panels(self, ctx)))


class HelpGroup(TyperGroup):
    """The group of all commands; its help lists them with their first paragraphs."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, (command.help or "").partition("\n\n")[0]) for name, command in self.commands.items()]
        formatter.write(_head(self, ctx) + sections({**_panels(self, ctx), "Commands": commands}))


def sections(panels: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """The rows of each panel, (term, meaning), below the panel's title."""
    width = terminal_width()
    column = min(_FIRST_COLUMN, max(len(term) for rows in panels.values() for term, _ in rows)) + 2 * _GAP
    parts = []
    for title, rows in panels.items():
        parts += ["", f"{title}:"]
        for term, meaning in rows:
            text = wrapped(" " * column + meaning, width)
            first = f"{'':{_GAP}}{term}"
            if len(first) + _GAP > column or not meaning:
                parts += [first, *([text] if meaning else [])]
            else:
                parts.append(first + text[len(first) :])
    return "\n".join(parts) + "\n"


def _head(command: Any, ctx: Any) -> str:
    """The usage line and the command's description."""
    usage = f"Usage: {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}"
    paragraphs = [wrapped(" ".join(part.split()), terminal_width()) for part in (command.help or "").split("\n\n")]
    return "\n\n".join([wrapped(usage, terminal_width(), further="  "), *paragraphs]) + "\n"


def _panels(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Per panel the arguments and options: spellings, and help with default and range."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(_plain(*record))
    return panels


def _plain(term: str, meaning: str | None) -> tuple[str, str]:
    """`--runs <list[Path]>` as `--runs <path>`, `<int range>` as `<int>`."""
    term = re.sub(r"<list\[(\w+)\]>", lambda kind: f"<{kind[1].lower()}>", term)
    return term.replace(" range>", ">"), meaning or ""
