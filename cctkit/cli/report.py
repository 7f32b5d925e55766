"""The result of an evaluation as tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cctkit.columns import Column, table_of
from cctkit.text import counted, safe_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_SHOWN = 5  # rows of each table
_NAME_LENGTH = 40


def render_evaluation(result: Mapping[str, Any]) -> "Group":
    """The figures of `eval --json`, the worst classes and the most confused pairs. Null values are left out."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    figures = Table.grid(padding=(0, 2))
    figures.add_column(no_wrap=True)
    figures.add_column(overflow="fold")
    for name, value in _figures(result).items():
        if value:
            figures.add_row(Text(name), Text(value))
    worst = [(row["class"], f"{row['top1_percent']:.1f}%", str(row["num_images"])) for row in result["worst_classes"]]
    confused = [(row["class"], row["predicted"], str(row["count"])) for row in result["confusions"]]
    tables = (("worst class", "top-1", "images"), worst), (("most confused", "taken for", "images"), confused)
    parts = [part for headings, rows in tables if rows for part in (Text(), _table(headings, rows[:_SHOWN]))]
    return Group(figures, *parts)


def seeds_text(summary: Mapping[str, Any]) -> str:
    """The summary of several seeds: a line for each, then the mean with both of its uncertainties."""
    width = max(len(str(seed)) for seed in summary["seeds"])
    lines = [f"seed {run['seed']:>{width}}  top-1 {run['top1_percent']:.2f}%" for run in summary["runs"]]
    low, high = summary["top1_interval_percent"]
    std = summary["top1_std_percent"]
    spread = "" if std is None else f"standard deviation over seeds {std:.2f}, "
    return "\n".join(
        [
            *lines,
            f"mean of {counted(len(lines), 'seed')}: top-1 {summary['top1_percent']:.2f}%",
            f"  {spread}95% interval over {summary['num_images']:,} test images {low:.2f} to {high:.2f}",
        ]
    )


def _figures(result: Mapping[str, Any]) -> dict[str, str]:
    """The name and text of each figure, in the order shown; "" if its value is null."""
    low, high = result["top1_interval_percent"]
    params = result["params"]
    return {
        "model": safe_text(result["model"]),
        "data": f"{safe_text(result['dataset'])}, {safe_text(result['split'])}, {result['num_images']:,} images",
        "epoch": _epoch(result),
        "top-1": f"{result['top1_percent']:.2f}%   95% interval {low:.2f} to {high:.2f}",
        "balanced accuracy": _with_interval(result, "balanced_accuracy"),
        "macro F1": _with_interval(result, "macro_f1"),
        "without copies": _without_copies(result),
        "top-5": _text(result["top5_percent"], "{:.2f}%"),
        "loss": _text(result["loss"], "{:.4f} nats") + _text(result.get("calibrated_loss"), "   {:.4f} with the temperature"),
        "calibration error": _text(result["ece"], "{:.4f}") + _calibrated(result),
        **_confident(result),
        "parameters": f"{params['total']:,}   without embeddings {params['without_embeddings']:,}",
        "speed": _text(result["images_per_s"], "{:,.0f} images/s"),
        "score": _text(result.get("score"), "{:.3f}   100 * (top-1 - 70) / millions of parameters"),
    }


def _with_interval(result: Mapping[str, Any], name: str) -> str:
    """A figure and its interval, null where it is unknown; "" for the result of a version that did not compute it."""
    value, interval = result.get(f"{name}_percent"), result.get(f"{name}_interval_percent")
    shown = "   95% interval {:.2f} to {:.2f}".format(*interval) if interval else ""
    return "" if value is None else f"{value:.2f}%{shown}"


def _calibrated(result: Mapping[str, Any]) -> str:
    """The calibration error with the temperature, or why there is none; "" for the result of a version that had none."""
    if "temperature" not in result or result["ece"] is None:
        return ""
    if result["temperature"] is None:
        return f"   no temperature{'' if result['chosen_by'] == 'validation' else ' without validation images'}"
    return f"   {result['calibrated_ece']:.4f} with the temperature {result['temperature']:.4g}"


def _confident(result: Mapping[str, Any]) -> dict[str, str]:
    """With `eval --min-confidence`: coverage, and accuracy of these images and of the others."""
    found = result.get("confident")
    if found is None:
        return {}
    name, left = f"confidence >= {found['min_confidence']:g}", found["left"]
    return {
        name: _with_interval(found, "coverage") + f"   {counted(found['num_images'], 'image')}",
        "  top-1 of these": _with_interval(found, "top1"),
        "  top-1 of the rest": _with_interval(left, "top1")
        and _with_interval(left, "top1") + f"   {counted(left['num_images'], 'image')}",
    }


def _without_copies(result: Mapping[str, Any]) -> str:
    """The accuracy without the images that are also in train, if there are any."""
    number, top1_percent = result.get("copies_in_train"), result.get("top1_percent_without_copies")
    if not number:
        return ""
    shown = "none left" if top1_percent is None else f"{top1_percent:.2f}%"
    return f"{shown}   {counted(number, 'image')} of {result['num_images']:,} are in train too"


def _epoch(result: Mapping[str, Any]) -> str:
    """The epoch that was evaluated: `7 of 20, the best by validation`."""
    if result["epoch"] is None:
        return "the run is unfinished" if result["finished"] is False else ""
    parts = [f"{result['epoch']} of {result['planned_epochs']}"]
    if result["chosen_by"] == "validation":
        parts.append("the best by validation")
    if result["finished"] is False:
        parts.append("the run is unfinished")
    elif result.get("epochs", result["planned_epochs"]) < result["planned_epochs"]:
        parts.append(f"stopped early after {result['epochs']}")
    return ", ".join(parts)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """A table of names and figures; the last column and percentages are right-aligned."""
    columns = []
    for heading, cells in zip(headings, zip(*rows, strict=True), strict=True):
        is_name = heading != headings[-1] and not cells[0].endswith("%")
        texts = [safe_text(cell, _NAME_LENGTH) for cell in cells]
        columns.append(Column(heading=(heading,), cells=texts, left=is_name, folded=_NAME_LENGTH))
    return table_of(columns)
