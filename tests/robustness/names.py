"""Hostile names, and what may not be found where they were printed."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cctkit

# Each could be the name of a folder: no slash, no NUL, at most 255 bytes.
FOLDER_NAMES = (
    # what a terminal would obey
    *(
        "\x1b[2Jclear",
        "\x1b]0;owned\x07title",
        "\x1b[66mred",
        "\x9b31mcsi",
        "\x07bell",
        "back\x08\x08\x08",
        "re\rturn",
        "new\nline",
        "tab\tbed",
    ),
    *(
        "del\x7f",
        "\u202eevil.gnp",
        "\u2066isolate\u2069",
        "\u200bzero",
        "\ufeffmark",
        "\u2028line",
        "\U000e0041tag",
        "caf\udce9",
    ),
    # markup of rich, LaTeX, Python and C
    *("[bold red]x", "[link=file:etc]x", ":smile:", "$x^2$", "{0.__class__}", "%s%n"),
    # HTML, SVG and Markdown
    *("<script>alert(1)", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "&lt;script&gt;", "--><script>"),
    *("]]><script>", "| a | b |", "`code`", "[x](javascript:alert(1))", "**b** # _i_"),
    # formulas of spreadsheets
    *("=1+1", "+1+1", "-1+1", "@SUM(1)", '=cmd|"C calc"!A0'),
    # paths, options and shells
    *("up\\..\\..\\up", "~root", "%2e%2e%2f", "$(touch x)", "a; touch x", "CON", "--help", "-rf", "trailing ", " leading"),
    *("x" * 240, "水" * 75, "e" + "\u0301" * 60),
)
# These only a file can hold, as a class name.
OTHER_NAMES = (
    "[/]",
    "../../up",
    "/etc/passwd",
    "a/b",
    "<script>alert(1)</script>",
    "nul\x00byte",
    "y" * 5000,
    "",
    "=1+1\n@x",
    "</title>",
)
NAMES = (*FOLDER_NAMES, *OTHER_NAMES)

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_TERMINAL = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]|\r")  # what a progress bar and colours are made of
_OWNED = ("\x1b[2J", "\x1b]", "\x1b[66m", "\x9b")  # of the names, and of nothing that we print ourselves
OWN_SCRIPT = (Path(cctkit.__file__).parent / "inspection" / "page.js").read_text(encoding="utf-8")
"""The one script that a page of ours has."""
_ACTIVE = {"script", "iframe", "object", "embed", "foreignobject", "base", "form", "meta-refresh"}


def faults_of_text(text: str, *, on_terminal: bool = False) -> Iterator[str]:
    """Control characters, and whatever else is not printed as itself."""
    if any(piece in text for piece in _OWNED):
        yield f"a control sequence of a name: {_around(text, next(piece for piece in _OWNED if piece in text))}"
    rest = _TERMINAL.sub("", text) if on_terminal else text
    for character in sorted({each for each in rest if each != "\n" and unicodedata.category(each) in _UNSAFE}):
        yield f"the raw character {character!a}: {_around(rest, character)}"


def faults_of_csv(text: str) -> Iterator[str]:
    """Cells that a spreadsheet would calculate."""
    yield from faults_of_text(text)
    for cell in (cell for row in csv.reader(io.StringIO(text)) for cell in row):
        if cell.startswith(("=", "+", "-", "@")) and not re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", cell):
            yield f"the cell {cell[:80]!r} is a formula"


def faults_of_json(text: str) -> Iterator[str]:
    """JSON that is none, does not come back, or that a terminal would obey."""
    yield from faults_of_text(text)
    for document in (text,) if text.lstrip().startswith(("{", "[")) and _loads(text) is not None else text.splitlines():
        value = _loads(document)
        if value is None or json.loads(json.dumps(value)) != value:
            yield f"no JSON: {document[:80]!r}"


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


class _Nodes(HTMLParser):
    """Finds what a browser would run."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def handle_data(self, data: str) -> None:
        if self.faults and self.faults[-1] == "the node <script>" and data == OWN_SCRIPT:
            self.faults.pop()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in _ACTIVE or (tag in {"img", "svg"} and any(value in ("x", "alert(1)") for _, value in attributes)):
            self.faults.append(f"the node <{tag}>")
        for name, value in attributes:
            if name.startswith("on") or (value or "").strip().lower().startswith(("javascript:", "data:text/html")):
                self.faults.append(f"the attribute {name} of <{tag}>")


def faults_of_html(text: str) -> Iterator[str]:
    """Nodes and attributes that run code."""
    yield from faults_of_text(text)
    parser = _Nodes()
    parser.feed(text)
    parser.close()
    yield from parser.faults


def faults_of_svg(text: str) -> Iterator[str]:
    """The same; and an SVG has to be XML."""
    try:
        ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        yield f"no XML: {error}"
    yield from faults_of_html(text)


def faults_of_markdown(text: str) -> Iterator[str]:
    """What a Markdown renderer that lets HTML through would make of it."""
    from markdown_it import MarkdownIt

    yield from faults_of_text(text)
    yield from faults_of_html(MarkdownIt("commonmark").enable("table").render(text))


_BY_SUFFIX = {
    ".csv": faults_of_csv,
    ".html": faults_of_html,
    ".svg": faults_of_svg,
    ".md": faults_of_markdown,
    ".json": faults_of_json,
    ".jsonl": faults_of_json,
}


def faults_of_files(before: Mapping[Path, bytes], folder: Path) -> Iterator[str]:
    """What is wrong in the files that are new in `folder`, in their contents and in their names."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or before.get(path) == path.read_bytes():
            continue
        if path in before:
            yield f"{path} was overwritten"
        check = _BY_SUFFIX.get(path.suffix.lower())
        if check is not None:
            yield from (f"{path.name}: {fault}" for fault in check(path.read_bytes().decode("utf-8", "surrogateescape")))


def _around(text: str, piece: str) -> str:
    at = text.index(piece)
    return ascii(text[max(0, at - 30) : at + 30])
