"""An evaluation as a person reads it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cctkit.text import safe_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_SHOWN = 5


def render_evaluation(result: Mapping[str, Any]) -> "Group":
    """The figures of `eval --json`, then the worst classes and the most confused pairs."""
    from rich.console import Group
    from rich.text import Text

    low, high = result["top1_interval_percent"]
    params = result["params"]
    rows = {
        "model": safe_text(result["model"]),
        "data": f"{safe_text(result['dataset'], 60)}, {result['split']}, {result['num_images']:,} images",
        "top-1": f"{result['top1_percent']:.2f}%   95% interval {low:.2f} to {high:.2f}",
        "top-5": _figure(result["top5_percent"], "{:.2f}%"),
        "loss": _figure(result["loss"], "{:.4f} nats"),
        "calibration error": _figure(result["ece"], "{:.4f}"),
        "parameters": f"{params['total']:,}   without embeddings {params['without_embeddings']:,}",
        "speed": f"{result['images_per_s']:,.0f} images/s",
    }
    if result.get("score") is not None:
        rows["score"] = f"{result['score']:.3f}   100 * (top-1 - 70) / millions of parameters"
    width = max(map(len, rows)) + 2
    lines = [Text(f"{name:<{width}}{value}") for name, value in rows.items() if value]
    worst = [(safe_text(row["class"], 40), f"{row['top1_percent']:.1f}%") for row in result["worst_classes"][:_SHOWN]]
    pairs = [
        (f"{safe_text(row['class'], 30)} taken for {safe_text(row['predicted'], 30)}", str(row["count"]))
        for row in result["confusions"][:_SHOWN]
    ]
    tables = [_table(title, entries) for title, entries in (("worst classes", worst), ("most confused", pairs)) if entries]
    return Group(*lines, *tables)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(title: str, rows: list[tuple[str, str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table
