"""The pictures, drawn with matplotlib's object interface: no display, no global state."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.errors import UserError
from cctkit.rundir import write_atomic
from cctkit.text import safe_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_FORMATS = {".png", ".svg", ".pdf"}
_STYLES = {"train": "--", "val": ":", "test": "-"}


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Loss (the criterion's) and top-1 over the epochs of one or several runs, by split; with one run, where the train
    loss crosses below the test loss is marked.

    Raises: UserError for a file name that is no .png, .svg or .pdf.
    """
    figure, (loss, top1) = _figure(columns=2, width=11)
    for number, (name, records) in enumerate(runs.items()):
        epochs = [record["epoch"] for record in records]
        for j, (split, style) in enumerate(_STYLES.items()):
            colour = COLOURS[(number if len(runs) > 1 else j) % len(COLOURS)]
            label = f"{safe_text(name, 40)}, {split}" if len(runs) > 1 else split
            look: dict[str, Any] = {
                "color": colour,
                "linestyle": style,
                "marker": "o" if len(epochs) < 3 else "",
                "label": label,
            }
            for axes, key in ((loss, f"{split}_loss_smoothed"), (top1, f"{split}_top1_percent")):
                values = [record.get(key) for record in records]
                if any(value is not None for value in values):
                    axes.plot(epochs, [float("nan") if value is None else value for value in values], **look)
        if len(runs) == 1 and (crossing := crossing_epoch(records)) is not None:
            loss.axvline(crossing, color="#999999", linewidth=1)
            loss.annotate(
                f"train below test\nfrom epoch {crossing}",
                (crossing, loss.get_ylim()[1]),
                xytext=(4, -4),
                textcoords="offset points",
                va="top",
                fontsize=8,
                color="#555555",
            )
    _label(loss, "Loss (with label smoothing)", "epoch", "nats an image")
    _label(top1, "Top-1 accuracy", "epoch", "%")
    save_figure(figure, path)


def crossing_epoch(records: Sequence[Mapping[str, Any]]) -> int | None:
    """The first epoch from which the train loss stays below the test loss: the report's sign of overfitting."""
    crossing = None
    for record in records:
        train, test = record.get("train_loss_smoothed"), record.get("test_loss_smoothed")
        if train is None or test is None:
            continue
        if train >= test:
            crossing = None
        elif crossing is None:
            crossing = int(record["epoch"])
    return crossing


def _figure(*, columns: int = 1, width: float = 7) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _label(axes: "Axes", title: str, x: str, y: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure atomically; equal figures give equal files.

    Raises: UserError for a file name that is no .png, .svg or .pdf.
    """
    import matplotlib

    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise UserError(f"pictures end in .png, .svg or .pdf, not {safe_text(suffix)!r}", safe_text(path))
    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[suffix]
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "cctkit"}):
        figure.savefig(data, format=suffix[1:], dpi=120, metadata=undated)
    write_atomic(path, data.getvalue())
