"""Rows of `cctkit predict` as a table, CSV or JSON; each batch is written when it is done."""

import csv
import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from cctkit.files import full_disk_named, new_file
from cctkit.text import csv_cell, json_text, safe_text

if TYPE_CHECKING:
    from cctkit.prediction.stream import FilePrediction

_NAME_LENGTH, _LONGEST_CELL = 40, 10_000
_PROBABILITY = "probability"


class Rows(Protocol):
    """Where rows go."""

    def write(self, batch: "Sequence[FilePrediction]", min_confidence: float) -> None:
        """Write one row per image. Below `min_confidence` the class is left empty; the top classes stay."""
        ...


def class_of(row: "FilePrediction", min_confidence: float) -> str | None:
    """The most probable class; None with an error or below `min_confidence`."""
    if row.prediction is None or row.prediction.probability < min_confidence:
        return None
    return row.prediction.class_name


class TableRows:
    """A table for people: class, probability, image, so that columns align although no later row is known."""

    def __init__(self, out: TextIO, *, classes: Sequence[str]) -> None:
        from rich.cells import cell_len

        self.out, self.cell_len = out, cell_len
        self.width = max(len("class"), *(cell_len(_shown(name)) for name in classes))
        self.begun = False

    def write(self, batch: "Sequence[FilePrediction]", min_confidence: float) -> None:
        if not self.begun:
            self._line("class", _PROBABILITY, "image")
            self.begun = True
        for row in batch:
            path = safe_text(row.path, _LONGEST_CELL)
            if row.prediction is None:
                self._line("-", "", f"{path}: {safe_text(row.error)}")
                continue
            name, top = class_of(row, min_confidence), row.prediction.top
            self._line("-" if name is None else name, f"{top[0].probability:.3f}", path)
            further = top[1:] if name is not None or len(top) == 1 else top  # all of them if the class is left empty
            for guess in further:
                self._line(guess.class_name, f"{guess.probability:.3f}", "")
        self.out.flush()

    def _line(self, name: str, probability: str, image: str) -> None:
        name = _shown(name)
        name += " " * (self.width - self.cell_len(name))
        self.out.write(f"{name}  {probability:>{len(_PROBABILITY)}}  {image}".rstrip() + "\n")


class JsonRows:
    """One JSON object per line."""

    def __init__(self, out: TextIO, *, heatmaps: bool) -> None:
        self.out, self.heatmaps = out, heatmaps
        self.ascii_only = not (out.encoding or "utf-8").lower().startswith("utf")

    def write(self, batch: "Sequence[FilePrediction]", min_confidence: float) -> None:
        for row in batch:
            found = row.prediction
            value: dict[str, Any] = {
                "path": row.path,
                "class": class_of(row, min_confidence),
                "probability": found.probability if found else None,
                "top": [{"class": each.class_name, "probability": each.probability} for each in found.top] if found else [],
                "error": row.error,
            }
            if self.heatmaps:
                value["heatmap"] = row.heatmap
            self.out.write(json_text(value, ascii_only=self.ascii_only) + "\n")
        self.out.flush()


class CsvRows:
    """A new CSV file in UTF-8, which gets its name when all rows are written."""

    def __init__(self, path: Path, *, top: int, heatmaps: bool) -> None:
        self.path, self.top, self.heatmaps = path, top, heatmaps
        self._stack = ExitStack()

    def __enter__(self) -> "CsvRows":
        self._file = self._stack.enter_context(new_file(self.path))
        further = [name for i in range(2, self.top + 1) for name in (f"class_{i}", f"probability_{i}")]
        self._write([["path", "class", _PROBABILITY, *further, *(["heatmap"] if self.heatmaps else []), "error"]])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, batch: "Sequence[FilePrediction]", min_confidence: float) -> None:
        self._write([self._cells(row, min_confidence) for row in batch])

    def _cells(self, row: "FilePrediction", min_confidence: float) -> list[str]:
        top = row.prediction.top if row.prediction else ()
        cells = [_cell(row.path), _cell(class_of(row, min_confidence)), f"{top[0].probability:.6f}" if top else ""]
        for i in range(1, self.top):
            cells += [_cell(top[i].class_name), f"{top[i].probability:.6f}"] if top else ["", ""]
        return [*cells, *([_cell(row.heatmap)] if self.heatmaps else []), _cell(row.error)]

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        with full_disk_named(self.path, saved=False):
            self._file.write(text.getvalue().encode())


def _cell(text: str | None) -> str:
    return "" if text is None else str(csv_cell(safe_text(text, _LONGEST_CELL)))


def _shown(name: str) -> str:
    return safe_text(name, _NAME_LENGTH)
