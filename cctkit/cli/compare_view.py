"""The tables of `cctkit compare`, as text for a terminal, Markdown, CSV and JSON."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cctkit.catalog.results import NOTES
from cctkit.comparison import SCORED_DATASET, Row
from cctkit.score import THRESHOLD_PERCENT
from cctkit.text import csv_cell, safe_text

if TYPE_CHECKING:
    from rich.console import Group

DATASET_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "flowers102": "Flowers-102", "imagenet1k": "ImageNet-1k"}
_FOLDED_MODEL = 18  # columns that a long model name is folded into, before other columns are left out
_NOTE_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SCORE = (
    f"score: 100 * (top-1 - {THRESHOLD_PERCENT:g}) / millions of parameters, the report's formula, for CIFAR-100; none under "
    f"{THRESHOLD_PERCENT:g}%. It grows without bound as a model shrinks and does not see what is under {THRESHOLD_PERCENT:g}%, "
    "so read it with the front."
)
_SIZE = (
    "size, score: by the published count, for own runs by the true one; true: all weights, as trained; "
    "t.s.: by torchsummary's count, which leaves embeddings out."
)
_FRONT = "front: no other row of the table has as few parameters and as much accuracy; p by the size shown, t by the true one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """heading: its lines; drop: what a narrow terminal does without, the lowest first, None: never."""

    heading: tuple[str, ...]
    text: Callable[[Row], str]
    left: bool = False
    drop: int | None = None


def label(row: Row) -> str:
    """The model, and what tells the row from others of the same model."""
    if row.kind == "final result":
        return f"{row.model}, final result"
    if row.kind == "published" and row.epochs not in (None, 200):
        return f"{row.model}, {row.epochs} epochs"
    return row.model


def title(rows: Sequence[Row]) -> str:
    """What the rows of a table have in common."""
    row = rows[0]
    name = DATASET_TITLES.get(row.dataset, row.dataset)
    images = f" ({row.fingerprint.removeprefix('sha256:')[:8]})" if row.fingerprint else ""
    return f"{name}{safe_text(images)}, {row.training}"


class _Marks:
    """Numbers of the sources and letters of the notes, in the order of their first use."""

    def __init__(self) -> None:
        self.sources: dict[str, int] = {}
        self.notes: dict[str, str] = {}

    def of(self, row: Row) -> str:
        number = self.sources.setdefault(row.run or row.source, len(self.sources) + 1)
        letters = [self.notes.setdefault(note, _NOTE_LETTERS[len(self.notes)]) for note in row.notes]
        return f"[{number}] {''.join(sorted(letters))}".rstrip()

    def lines(self) -> list[str]:
        """The footnotes."""
        sources = [f"[{number}] {source}" for source, number in self.sources.items()]
        return [*sources, *(f"{letter}: {NOTES[note]}" for note, letter in self.notes.items())]


def _columns(rows: Sequence[Row], marks: _Marks) -> list[Column]:
    scored = rows[0].dataset == SCORED_DATASET
    columns = [
        Column(heading=("", "model"), text=label, left=True),
        Column(heading=("top-1", "%"), text=lambda row: _decimals(row.top1_percent, 2, 2 if row.kind == "run" else 3)),
    ]
    if any(row.top1_interval_percent for row in rows):
        columns.append(Column(heading=("95%", "interval"), text=_interval_text))
    columns.append(Column(heading=("size", "M"), text=lambda row: _decimals(row.params_millions, 0, 3)))
    if scored:
        columns.append(Column(heading=("", "score"), text=lambda row: _score_text(row, row.score)))
    if any(row.kind != "run" for row in rows):
        columns.append(Column(heading=("true", "M"), text=lambda row: _decimals(row.true_params_millions, 3, 3), drop=4))
        if scored:
            columns.append(Column(heading=("score", "true"), text=lambda row: _score_text(row, row.score_true_params), drop=3))
    if scored:
        columns.append(
            Column(heading=("score", "t.s."), text=lambda row: _score_text(row, row.score_without_embeddings), drop=5)
        )
    columns += [
        Column(heading=("MACs", "G"), text=lambda row: "" if row.macs is None else f"{row.macs / 1e9:.3f}", drop=1),
        Column(heading=("", "epochs"), text=lambda row: "" if row.epochs is None else str(row.epochs), drop=2),
        Column(heading=("", "front"), text=lambda row: " ".join("p" * row.pareto + "t" * row.pareto_true), left=True),
        Column(heading=("source,", "notes"), text=marks.of, left=True),
    ]
    return columns


def _decimals(value: float | None, least: int, most: int) -> str:
    """At most `most` decimals, without the zeros after the first `least`; empty for None."""
    if value is None:
        return ""
    whole, _, decimals = f"{value:.{most}f}".partition(".")
    decimals = decimals[:least] + decimals[least:].rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole


def _interval_text(row: Row) -> str:
    interval = row.top1_interval_percent
    return "" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}"


def _score_text(row: Row, score: float | None) -> str:
    if row.top1_percent < THRESHOLD_PERCENT:
        return f"< {THRESHOLD_PERCENT:g}%"
    return "" if score is None else f"{score:.3f}"


def render(tables: Sequence[Sequence[Row]], *, width: int | None) -> "Group":
    """The tables and their footnotes; columns are left out, and named, where they do not fit into `width` (None: any)."""
    from rich.console import Group
    from rich.text import Text

    marks = _Marks()
    parts: list[Any] = []
    dropped: dict[str, None] = {}
    for rows in tables:
        columns, cells, left_out = _fitted(rows, marks, width)
        dropped |= dict.fromkeys(left_out)
        parts += [Text(title(rows), style="bold"), _table(columns, cells, rows), Text()]
    notes = [*_explanations(tables), *marks.lines()]
    if dropped:
        notes.append(f"left out, as the terminal is narrow: {', '.join(dropped)}; --json and --csv have them")
    return Group(*parts, *map(Text, notes))


def _explanations(tables: Sequence[Sequence[Row]]) -> list[str]:
    scored = any(rows[0].dataset == SCORED_DATASET for rows in tables)
    return [*([_SCORE, _SIZE] if scored else []), _FRONT]


def _filled(rows: Sequence[Row], marks: _Marks) -> tuple[list[Column], list[list[str]]]:
    """The columns that have anything to say of these rows, and their cells by row."""
    columns = _columns(rows, marks)
    cells = [[column.text(row) for column in columns] for row in rows]
    said = [i for i in range(len(columns)) if any(line[i] for line in cells)]
    return [columns[i] for i in said], [[line[i] for i in said] for line in cells]


def _fitted(rows: Sequence[Row], marks: _Marks, width: int | None) -> tuple[list[Column], list[list[str]], list[str]]:
    """The columns that fit, their cells by row, and the headings of the columns that do not fit."""
    from rich.cells import cell_len

    columns, cells = _filled(rows, marks)
    widths = [max(map(cell_len, (*column.heading, *(line[i] for line in cells)))) for i, column in enumerate(columns)]
    widths[0] = min(widths[0], _FOLDED_MODEL)
    kept = list(range(len(columns)))
    while width is not None and sum(widths[i] for i in kept) + 2 * (len(kept) - 1) > width:
        droppable = [(columns[i].drop, i) for i in kept if columns[i].drop is not None]
        if not droppable:
            break
        kept.remove(min(droppable)[1])
    left_out = [" ".join(filter(None, columns[i].heading)) for i in range(len(columns)) if i not in kept]
    return [columns[i] for i in kept], [[line[i] for i in kept] for line in cells], left_out


def _table(columns: Sequence[Column], cells: Sequence[Sequence[str]], rows: Sequence[Row]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(
            Text("\n".join(column.heading)), justify="left" if column.left else "right", no_wrap=i > 0, overflow="fold"
        )
    for line, row in zip(cells, rows, strict=True):
        table.add_row(*map(Text, line), style="bold" if row.pareto or row.pareto_true else "")
    return table


def markdown(tables: Sequence[Sequence[Row]]) -> str:
    """The tables and their footnotes as GitHub's Markdown."""
    marks = _Marks()
    parts = []
    for rows in tables:
        columns, cells = _filled(rows, marks)
        lines = [[" ".join(filter(None, column.heading)) for column in columns], ["---" if c.left else "---:" for c in columns]]
        lines += [[_escaped(cell) for cell in line] for line in cells]
        parts += [f"**{_escaped(title(rows))}**", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    notes = [*_explanations(tables), *marks.lines()]
    return "\n\n".join([*parts, "\n".join(f"- {_escaped(note)}" for note in notes)]) + "\n"


def _escaped(text: str) -> str:
    """Text from outside without a meaning in Markdown."""
    return re.sub(r"([\\|<*`\[\]])", r"\\\1", text)


def as_dict(row: Row) -> dict[str, Any]:
    """A row of `compare --json`, schema version 1; others may be added, these stay."""
    return {
        "model": row.model,
        "dataset": row.dataset,
        "training": row.training,
        "kind": row.kind,
        "family": row.family,
        "top1_percent": row.top1_percent,
        "top1_interval_percent": row.top1_interval_percent,
        "num_images": row.num_images,
        "params_millions": row.params_millions,
        "score": row.score,
        "true_params": row.true_params,
        "score_true_params": row.score_true_params,
        "params_without_embeddings": row.params_without_embeddings,
        "score_without_embeddings": row.score_without_embeddings,
        "macs": row.macs,
        "epochs": row.epochs,
        "pareto": row.pareto,
        "pareto_true_params": row.pareto_true,
        "source": row.source,
        "run": row.run,
        "fingerprint": row.fingerprint or None,
        "notes": [NOTES[note] for note in row.notes],
    }


def csv_text(tables: Sequence[Sequence[Row]]) -> str:
    """The rows as CSV, with the keys of `--json`; what is null is empty. No cell from outside is a formula."""
    out = io.StringIO()
    records = [as_dict(row) for rows in tables for row in rows]
    writer = csv.writer(out, lineterminator="\n")
    flat = [key for key in records[0] if key not in ("top1_interval_percent", "notes")]
    at = flat.index("num_images")
    writer.writerow([*flat[:at], "top1_low_percent", "top1_high_percent", *flat[at:], "notes"])
    for record in records:
        low, high = record["top1_interval_percent"] or ("", "")
        cells = [record[key] for key in flat]
        line = [*cells[:at], low, high, *cells[at:], "; ".join(record["notes"])]
        writer.writerow(map(csv_cell, line))
    return out.getvalue()
