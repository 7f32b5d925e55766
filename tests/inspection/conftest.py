"""A finished run on a folder whose classes and files have hostile names, and its page."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import cctkit
from cctkit.inspection.inspect import InspectConfig, inspect_run
from tests.conftest import write_images

HOSTILE = (
    "<script>hacked=1<x",
    '"><img src=x onerror=hacked=1>',
    "{{7*7}}{% raise %}",
    "javascript:hacked=1",
    "\u202egnp.\u2066exe",
    "two\nlines",
    "\x1b[31mred",
    "'-hacked=1-'&lt;b&gt;",
)
BREAKOUT = '</script><script>hacked=1</script></style></title>"><svg onload=hacked=1>'


class Elements(HTMLParser):
    """Every element of a page, with its attributes and the text directly inside of it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        texts: list[str] = []
        assert len({name for name, _ in attributes}) == len(attributes)
        self.found.append((tag, dict(attributes), texts))
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(texts)

    def handle_startendtag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes), []))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].append(data)

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of the elements with this tag."""
        return [(attributes, "".join(texts)) for name, attributes, texts in self.found if name == tag]


def rows_of(html: str, table: str) -> list[list[tuple[str, str | None]]]:
    """Text and `data-value` of the cells of each row of the table with this label."""
    body = html.split(f'aria-label="{table}"')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [
        [(text, attributes.get("data-value")) for attributes, text in Elements(row).of("td")]
        for row in body.split("</tr>")[:-1]
    ]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("inspect") / "images"
    for seed, name in enumerate(HOSTILE):
        write_images(folder, {name: 8}, size=(8, 8), seed=seed)
        os.rename(folder / name / "0.png", folder / name / f"{HOSTILE[1]}{HOSTILE[0]}.png")
    return folder


@pytest.fixture(scope="session")
def finished(images: Path) -> Path:
    output = images.parent / "run"
    cctkit.fit(dataset=str(images), model="cct_2_3x1", image_size=8, epochs=2, output=output, threads=1, batch_size=16)
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run to change."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def inspected(run: Path, output: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """What `inspect_run` returns, and the page."""
    config = InspectConfig(output=output, **{"threads": 1, "check": False, "mistakes": 3, **options})
    result = inspect_run(run, config, notify=lambda _: None, progress=lambda *_: None)
    return result, output.read_text(encoding="utf-8")


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
def page(finished: Path) -> str:
    """The page of the run with everything on it."""
    return inspected(finished, finished.parent / "page.html", check=True, mistakes=5)[1]
