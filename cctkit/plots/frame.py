"""What all plots share: colours, style, axes and saving."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.errors import UserError
from cctkit.files import write_atomic
from cctkit.text import safe_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which is safe for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
_UNDATED: Mapping[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
_STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.dpi": 120,
    "grid.alpha": 0.3,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "cctkit",  # equal figures give equal files
    "text.parse_math": False,  # names may contain dollar signs
}


def check_picture(path: Path) -> None:
    """Check that a plot can be saved, before any work is done.

    Raises: UserError if the name does not end in .png, .svg or .pdf, is a directory, or its directory does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in _UNDATED:
        raise UserError(f"plots are saved as .png, .svg or .pdf, not '{safe_text(suffix)}'", safe_text(path))
    if path.is_dir() or not path.parent.is_dir():
        problem = "it is a directory" if path.is_dir() else f"there is no directory {safe_text(path.parent)}"
        raise UserError(f"cannot write the picture: {problem}", safe_text(path))


@contextlib.contextmanager
def style() -> Iterator[None]:
    """A context with our style, independent of the user's matplotlib configuration."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def new_figure(
    *,
    rows: int = 1,
    columns: int = 1,
    width: float = 7,
    height: float = 4.2,
    margins: tuple[float, float, float, float] | None = None,
) -> "tuple[Figure, list[Axes]]":
    """A figure with a grid of axes.

    width: of the figure in inches.
    height: per row in inches.
    margins: left, bottom, right and top edge of the axes as fractions of the figure; None: computed, which takes longer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), layout="constrained" if margins is None else None)
    FigureCanvasAgg(figure)
    if margins is not None:
        figure.subplots_adjust(**dict(zip(("left", "bottom", "right", "top"), margins, strict=True)))
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def label(axes: "Axes", title: str, x: str, y: str) -> None:
    """Title, axis names, and an x axis of whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def mark_epoch(axes: "Axes", epoch: float, text: str, *, left: bool = False, top: bool = True) -> None:
    """A thin vertical line with a text beside it."""
    axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        text,
        (epoch, 1 if top else 0),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, -4 if top else 4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top" if top else "bottom",
        fontsize=8,
        color=GREY,
    )


def legend_name(name: object) -> str:
    """A name for a legend, from which matplotlib would omit one with a leading underscore."""
    text = safe_text(name, 48)
    return f" {text}" if text.startswith("_") else text


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure atomically. Equal figures give equal files.

    Raises: UserError if the file name does not end in .png, .svg or .pdf, or the file cannot be written.
    """
    check_picture(path)
    suffix = path.suffix.lower()
    data = io.BytesIO()
    figure.savefig(data, format=suffix[1:], metadata=_UNDATED[suffix])
    write_atomic(path, data.getvalue())
