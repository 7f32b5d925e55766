"""The documentation: Markdown by MyST, the API from its docstrings, the commands from their help. `make docs` builds it."""

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
autodoc_typehints = "description"
autodoc_member_order = "bysource"
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # the build needs no network


def write_commands(_app: object) -> None:
    """`reference/commands.md`, from the help of every command."""
    command = [sys.executable, "-m", "typer", "cctkit.cli.app", "utils", "docs", "--name", "cctkit", "--title", "Commands"]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    (HERE / "reference" / "commands.md").write_text(text, encoding="utf-8")


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_commands)  # type: ignore[attr-defined]
