"""The page as HTML: one file without a request, whose scripts and styles are those of this package alone."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cctkit.inspection.batch import Fed
from cctkit.inspection.mistakes import Mistake, Shown
from cctkit.inspection.parts import CheckPart, ConfusionPart, CurvesPart, RatePart, ReliabilityPart, SettingsPart
from cctkit.inspection.run import Missing
from cctkit.inspection.tables import Figure, Sizes, Table
from cctkit.text import safe_text

GENERATOR = "cctkit inspect"
"""By which a page is recognised that may be replaced."""
_HERE = Path(__file__).parent
_LONGEST_TEXT = 4000

CONTENTS: Mapping[str, str] = {
    "result": "Result",
    "curves": "Curves",
    "learning-rate": "Learning rate",
    "confusion": "Confusion matrix",
    "classes": "Classes",
    "mistakes": "Most confident mistakes",
    "batch": "Augmented batch",
    "reliability": "Reliability",
    "heat-maps": "Heat maps",
    "sizes": "Sizes and memory",
    "check": "Data check",
    "settings": "Settings",
    "environment": "Environment",
}
"""The title of each part, by its ID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is on the page; a part without data has the sentence that says so.

    title: model and data set.
    name: of the run.
    state: which epochs are finished, and which one the weights are of.
    """

    title: str
    name: str
    state: str
    figures: Sequence[Figure] | Missing
    curves: CurvesPart | Missing
    learning_rate: RatePart | Missing
    confusion: ConfusionPart | Missing
    classes: Table | Missing
    mistakes: Sequence[Mistake] | Missing
    batch: Sequence[Fed] | Missing
    reliability: ReliabilityPart | Missing
    heat_maps: Sequence[Shown] | Missing
    sizes: Sizes | Missing
    check: CheckPart | Missing
    settings: SettingsPart
    environment: Table

    def missing(self) -> dict[str, str]:
        """The parts without data, by their ID, and why."""
        parts = {each: self.figures if each == "result" else getattr(self, each.replace("-", "_")) for each in CONTENTS}
        return {name: found.sentence for name, found in parts.items() if isinstance(found, Missing)}


def render(page: Page) -> str:
    """The page as one HTML document. Every text on it is escaped, control characters included."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash_of(script)}'",
            f"style-src '{_hash_of(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            contents=CONTENTS,
            policy=policy,
            generator=GENERATOR,
            newline=Markup("\n"),
            style=Markup(style),  # our own files, which hold no text from outside
            script=Markup(script),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_printable,
        keep_trailing_newline=True,
    )
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    return environment


def _printable(value: Any) -> Any:
    """Text from outside without control, bidi and newline characters; markup of the template itself as it is."""
    return safe_text(value, _LONGEST_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash_of(text: str) -> str:
    """As a Content-Security-Policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
