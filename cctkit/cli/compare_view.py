"""The tables of `cctkit compare`, as text for a terminal, Markdown, CSV and JSON."""

import copy
import csv
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cctkit.catalog.results import DATASET_TITLES, NOTES
from cctkit.catalog.score import THRESHOLD_PERCENT
from cctkit.columns import Column, fitting, narrow_note, table_of, total_width
from cctkit.runs.comparison import SCORED_DATASET, Row
from cctkit.text import counted, csv_cell, safe_text

if TYPE_CHECKING:
    from rich.console import Group

SCORED_PANEL = f"{DATASET_TITLES[SCORED_DATASET]}: accuracy against parameters"
_IN_FOOTNOTES = ("recipe", "seed")  # of own runs, if their columns are left out
_FOLDED_MODEL = 18  # characters at which model names wrap before columns are left out
_NOTE_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_INTERVAL = "top1_interval_percent"
_KEYS = (
    *("model", "dataset", "training", "kind", "family", "top1_percent", _INTERVAL, "num_images"),
    *("params_millions", "score", "true_params", "score_true_params"),
    *("params_without_embeddings", "score_without_embeddings", "macs", "epochs", "pareto", "pareto_true_params"),
    *("source", "run", "recipe", "seed", "seeds", "top1_std_percent"),
)
_SCORE = (
    f"score: 100 * (top-1 - {THRESHOLD_PERCENT:g}) / millions of parameters, the report's formula, for CIFAR-100; none under "
    f"{THRESHOLD_PERCENT:g}%. It grows without bound as models get smaller and ignores all accuracy under "
    f"{THRESHOLD_PERCENT:g}%, so read it together with the Pareto front."
)
_SIZE = (
    "size, score: with the published number of parameters (own runs: the true number); true: with all trained weights; "
    "t.s.: with torchsummary's count, which leaves embeddings out."
)
_FRONT = "front: on the Pareto front of accuracy and parameters; p: by the size shown, t: by the true number."
_OWN_FRONT = "front, *: on the Pareto front of accuracy and parameters."


def label(row: Row, *, with_recipe: bool = False) -> str:
    """The model, and what distinguishes the row from others of the same model.

    with_recipe: add the recipe and seed of an own run.
    """
    if row.kind == "shipped" and row.run:
        return row.run
    if row.kind == "final result":
        return f"{row.model}, final result"
    if row.kind == "published" and row.epochs not in (None, 200):
        return f"{row.model}, {row.epochs} epochs"
    if with_recipe:
        return ", ".join(filter(None, (row.model, row.recipe, _of_seeds(row))))
    return row.model


def _of_seeds(row: Row) -> str:
    """`seed 3`, or `5 seeds` of a mean over them."""
    if row.seeds is not None:
        return counted(row.seeds, "seed")
    return "" if row.seed is None else f"seed {row.seed}"


def title(rows: Sequence[Row]) -> str:
    """The title of a table: its images and kind of training."""
    return f"{_images(rows[0])}, {rows[0].training}"


def panel_title(rows: Sequence[Row]) -> str:
    """The title of the plot of all tables with the same images."""
    return f"{_images(rows[0])}: accuracy against parameters"


def _images(row: Row) -> str:
    fingerprint = f" ({row.fingerprint.removeprefix('sha256:')[:8]})" if row.fingerprint else ""
    return DATASET_TITLES.get(row.dataset, row.dataset) + safe_text(fingerprint)


class _Marks:
    """Numbers of sources and letters of notes, in the order of first use. An own run needs none: its path is shown."""

    def __init__(self) -> None:
        self.sources: dict[str, int] = {}
        self.notes: dict[str, str] = {}
        self.listed: set[str] = set()

    def of(self, row: Row, *, numbered: bool = True) -> str:
        """The marks of a row. numbered: also mark an own run, whose path would be too long."""
        if row.run and row.is_own and not numbered:
            return row.run
        number = self.sources.setdefault(_described(row), len(self.sources) + 1)
        letters = [self.notes.setdefault(note, _NOTE_LETTERS[len(self.notes)]) for note in row.notes]
        return f"[{number}] {''.join(sorted(letters))}".rstrip()

    def lines(self) -> list[str]:
        """The footnotes of the marks used since the last call."""
        sources = {f"[{number}]": source for source, number in self.sources.items()}
        notes = {f"{letter}:": NOTES[note] for note, letter in self.notes.items()}
        new = {mark: text for mark, text in (sources | notes).items() if mark not in self.listed}
        self.listed |= new.keys()
        return [f"{mark} {text}" for mark, text in new.items()]


def _described(row: Row) -> str:
    """The source of a row; for an own run its path, recipe and seed, and for weights that come with cctkit their name too."""
    if row.run is None:
        return row.source
    details = (
        "" if row.is_own else row.source,
        f"recipe {row.recipe}" if row.recipe else "",
        _of_seeds(row),
    )
    return ", ".join(filter(None, (row.run, *details)))


def _columns(rows: Sequence[Row], marks: _Marks, *, numbered: bool = False) -> list[Column]:
    """The columns that are not empty for these rows. numbered: own runs are named in footnotes."""
    scored, own_only = rows[0].dataset == SCORED_DATASET, all(row.is_own for row in rows)
    columns: list[Column] = []

    def add(heading: tuple[str, str], text: Callable[[Row], str], *, left: bool = False, drop: int | None = None) -> None:
        cells = [text(row) for row in rows]
        if any(cells):
            folded = _FOLDED_MODEL if not columns else None
            columns.append(Column(heading=heading, cells=cells, left=left, drop=drop, folded=folded))

    add(("", "model"), label, left=True)
    add(("top-1", "%"), lambda row: _decimals(row.top1_percent, 2, 2 if row.is_ours else 3))
    add(("std over", "seeds"), _std_text)
    add(("95%", "interval"), _interval_text, drop=7)
    add(("size", "M"), lambda row: _decimals(row.params_millions, 0, 3))
    if scored:
        add(("", "score"), lambda row: _score_text(row, row.score))
    if not own_only:
        add(("true", "M"), lambda row: _decimals(row.true_params_millions, 3, 3), drop=5)
        if scored:
            add(("score", "true"), lambda row: _score_text(row, row.score_true_params), drop=4)
    if scored:
        add(("score", "t.s."), lambda row: _score_text(row, row.score_without_embeddings), drop=6)
    add(("MACs", "G"), lambda row: "" if row.macs is None else f"{row.macs / 1e9:.3f}", drop=1)
    add(("", "epochs"), lambda row: "" if row.epochs is None else str(row.epochs), drop=2)
    add(("", "recipe"), lambda row: (row.is_own and row.recipe) or "", left=True, drop=3)
    add(("", "seed"), _seed_text, drop=3)
    if len(rows) > 1:
        add(("", "front"), lambda row: _front_text(row, own_only=own_only), left=True, drop=8)
    heading = ("", "run") if own_only else ("source,", "notes")
    add(heading, lambda row: marks.of(row, numbered=numbered), left=True)
    return columns


def _front_text(row: Row, *, own_only: bool) -> str:
    """The fronts that a row is on; own runs have only one, as their size is the true one."""
    if own_only:
        return "*" * row.pareto
    return " ".join("p" * row.pareto + "t" * row.pareto_true_params)


def _decimals(value: float | None, least: int, most: int) -> str:
    """At most `most` decimals, without trailing zeros after the first `least`; empty for None."""
    if value is None:
        return ""
    whole, _, decimals = f"{value:.{most}f}".partition(".")
    decimals = decimals[:least] + decimals[least:].rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def _seed_text(row: Row) -> str:
    if not row.is_own:
        return ""
    return _of_seeds(row) if row.seed is None else str(row.seed)


def _std_text(row: Row) -> str:
    return "" if row.top1_std_percent is None else f"{row.top1_std_percent:.2f}"


def _interval_text(row: Row) -> str:
    interval = row.top1_interval_percent
    return "" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}"


def _score_text(row: Row, score: float | None) -> str:
    if row.top1_percent < THRESHOLD_PERCENT:
        return f"< {THRESHOLD_PERCENT:g}%"
    return "" if score is None else f"{score:.3f}"


def render(tables: Sequence[Sequence[Row]], *, width: int | None) -> "Group":
    """The tables, with the footnotes of each data set below its last table.

    width: of the terminal in characters; columns that do not fit are left out and named. None: unlimited.
    """
    from rich.console import Group
    from rich.text import Text

    marks = _Marks()
    parts: list[Any] = []
    dropped: dict[str, None] = {}
    for dataset in _by_dataset(tables):
        for rows in dataset:
            columns, left_out = _fitted(rows, marks, width)
            dropped |= dict.fromkeys(left_out)
            bold = [len(rows) > 1 and (row.pareto or row.pareto_true_params) for row in rows]
            parts += [Text(title(rows), style="bold"), table_of(columns, bold=bold), Text()]
        notes = [*_explanations(dataset), *marks.lines()]
        parts += [*map(Text, notes), *([Text()] if notes else [])]
    if dropped:
        parts += [Text(narrow_note(dropped, "--json and --csv have them")), Text()]
    return Group(*parts[:-1])


def _by_dataset(tables: Sequence[Sequence[Row]]) -> list[list[Sequence[Row]]]:
    """The tables grouped by data set."""
    return [list(group) for _, group in itertools.groupby(tables, key=lambda rows: rows[0].dataset)]


def _explanations(tables: Sequence[Sequence[Row]]) -> list[str]:
    """What the columns of a data set's tables mean."""
    notes = [_SCORE, _SIZE] if tables[0][0].dataset == SCORED_DATASET else []
    compared = [rows for rows in tables if len(rows) > 1]
    if any(not row.is_own for rows in compared for row in rows):
        notes.append(_FRONT)
    if any(all(row.is_own for row in rows) for rows in compared):
        notes.append(_OWN_FRONT)
    return notes


def _fitted(rows: Sequence[Row], marks: _Marks, width: int | None) -> tuple[list[Column], list[str]]:
    """The columns that fit, and the names of those that do not.

    If not all fit, own runs are named in footnotes, with their recipes and seeds.
    """
    marks_before = copy.deepcopy(marks)
    columns = _columns(rows, marks)
    if width is None or total_width(columns) <= width:
        return columns, []
    marks.sources, marks.notes = marks_before.sources, marks_before.notes
    kept, left_out = fitting(_columns(rows, marks, numbered=True), width)
    return kept, [name for name in left_out if name not in _IN_FOOTNOTES]


def markdown(tables: Sequence[Sequence[Row]]) -> str:
    """The tables and their footnotes as GitHub Markdown."""
    marks = _Marks()
    parts = []
    for dataset in _by_dataset(tables):
        for rows in dataset:
            columns = _columns(rows, marks)
            lines = [[column.name for column in columns], ["---" if column.left else "---:" for column in columns]]
            lines += [[_escaped(cell) for cell in line] for line in zip(*(column.cells for column in columns), strict=True)]
            parts += [f"**{_escaped(title(rows))}**", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        if notes := [*_explanations(dataset), *marks.lines()]:
            parts.append("\n".join(f"- {_escaped(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Text with the characters escaped that have a meaning in Markdown."""
    return re.sub(r"([\\|<*`\[\]])", r"\\\1", text)


def as_dict(row: Row) -> dict[str, Any]:
    """A row of `compare --json`, schema version 1: later versions may add keys and keep these."""
    values = {key: getattr(row, key) for key in _KEYS}
    return values | {"fingerprint": row.fingerprint or None, "notes": [NOTES[note] for note in row.notes]}


def csv_text(tables: Sequence[Sequence[Row]]) -> str:
    """The rows as CSV with the keys of `--json`; null is empty. Text that looks like a formula is escaped."""
    out = io.StringIO()
    at = _KEYS.index(_INTERVAL)
    names = [*_KEYS[:at], "top1_low_percent", "top1_high_percent", *_KEYS[at + 1 :], "fingerprint", "notes"]
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in itertools.chain.from_iterable(tables):
        record = as_dict(row)
        record["top1_low_percent"], record["top1_high_percent"] = row.top1_interval_percent or ("", "")
        record["notes"] = "; ".join(record["notes"])
        writer.writerow({key: csv_cell(value) for key, value in record.items()})
    return out.getvalue()
