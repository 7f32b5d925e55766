"""Metrics of each class and the confusion matrix as CSV files."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.files import write_atomic
from cctkit.text import csv_cell, safe_text

if TYPE_CHECKING:
    import numpy as np

_LONGEST_CELL = 10_000


def write_class_table(path: Path, per_class: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of `per_class` in `eval --json` as CSV in UTF-8, atomically; null values are empty."""
    _write(path, [list(per_class[0]), *(row.values() for row in per_class)])


def write_confusion_table(path: Path, matrix: "np.ndarray[Any, Any]", class_names: Sequence[str]) -> None:
    """Write a confusion matrix (K, K + 1) as CSV in UTF-8, atomically: a row per class, a column per predicted class.

    The last column, `no prediction`, counts the images whose logits are not finite.
    """
    rows = zip(class_names, matrix.tolist(), strict=True)
    _write(path, [["class", *class_names, "no prediction"], *([name, *counts] for name, counts in rows)])


def _write(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows(
        [csv_cell(safe_text(cell, _LONGEST_CELL) if isinstance(cell, str) else cell) for cell in row] for row in rows
    )
    write_atomic(path, out.getvalue().encode())
