"""The documentation: Markdown by MyST, the API from its docstrings, the commands from their help. `make docs` builds it."""

import re
import subprocess
import sys
from pathlib import Path

import cctkit

HERE = Path(__file__).parent

project = "cctkit"
author = "the cctkit authors"
copyright = author
version = release = cctkit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
html_theme = "furo"
html_title = f"cctkit {release}"
exclude_patterns = ["build"]
myst_heading_anchors = 3
nitpicky = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # the build needs no network


def write_commands(_app: object) -> None:
    """`reference/commands.md`, from the help of every command."""
    command = [sys.executable, "-m", "typer", "cctkit.cli.app", "utils", "docs", "--name", "cctkit", "--title", "Commands"]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    purposes = dict(re.findall(r"^## `cctkit ([\w-]+)`\n\n(.+)$", text, re.MULTILINE))  # Typer's list cuts them short
    text = re.sub(
        r"^\* `([\w-]+)`: .*\.\.\.$",
        lambda row: f"* [`{row[1]}`](#cctkit-{row[1]}): {purposes[row[1]]}",
        text,
        flags=re.MULTILINE,
    )
    (HERE / "reference" / "commands.md").write_text(text, encoding="utf-8")


def to_rst(_app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """A docstring as reStructuredText: `code` in double backticks, a bullet for each `name: what it is`."""
    text, in_bullet = [], False
    for line in (re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines):
        if found := re.match(r"(\w+(?:, \w+)*): (?=\S)", line):
            text += [*([] if in_bullet else [""]), f"* **{found[1]}**: {line[found.end() :]}"]
            in_bullet = True
        else:
            in_bullet = in_bullet and bool(line.strip())
            text.append(f"  {line.strip()}" if in_bullet else line)
    lines[:] = text


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_commands)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", to_rst)  # type: ignore[attr-defined]
