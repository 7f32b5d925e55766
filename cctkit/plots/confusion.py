"""Picture of a confusion matrix."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.plots.frame import new_figure, save_figure, style
from cctkit.text import safe_text

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

_NAME_LENGTH = 24
_WITH_NUMBERS = 20  # classes, up to which each cell shows its count
_CELL_INCHES = 0.42  # up to `_WITH_NUMBERS` classes, and shrinking to the next beyond
_SMALL_CELL_INCHES = 0.15
_MOST_INCHES = 20.0  # of the matrix; with more classes not every name fits


def draw_confusion(matrix: "np.ndarray[Any, Any]", class_names: Sequence[str], path: Path, *, title: str) -> None:
    """Draw a confusion matrix: rows are the classes, columns the predictions, colours the percentage of a class's images.

    matrix: counts (K, K + 1); the last column, images without a prediction, is not drawn, but counts for the percentages.

    Raises: UserError if the file name does not end in .png, .svg or .pdf, or the file cannot be written.
    """
    import numpy as np

    classes = len(class_names)
    totals = matrix.sum(axis=1, keepdims=True)
    percents = np.where(totals > 0, 100 * matrix[:, :classes] / np.maximum(totals, 1), np.nan)  # (K, K)
    cell = _CELL_INCHES if classes <= _WITH_NUMBERS else max(_SMALL_CELL_INCHES, _CELL_INCHES * _WITH_NUMBERS / classes)
    side = min(_MOST_INCHES, max(2.0, classes * cell))
    names = [safe_text(name, _NAME_LENGTH) for name in class_names]
    margin = 0.6 + 0.075 * max(map(len, names))
    bar = 0.05 * side  # that the colour bar takes from the matrix
    with style():
        figure, (axes,) = new_figure(width=side + margin + bar + 1.2, height=side + margin + 0.4)
        _draw(axes, percents, names, inches=side / classes)
        if classes <= _WITH_NUMBERS:
            _write_counts(axes, matrix[:, :classes], percents)
        figure.suptitle(textwrap.fill(safe_text(title, 200), round(9 * figure.get_figwidth())), fontsize=11)
        save_figure(figure, path)


def _draw(axes: "Axes", percents: "np.ndarray[Any, Any]", names: Sequence[str], *, inches: float) -> None:
    """The cells, every name that fits, and the colour bar. inches: side of a cell."""
    import matplotlib
    from matplotlib.colors import PowerNorm

    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#e6e6e6")  # grey: a class without images
    # The square root, so that one confusion in a hundred shows beside a diagonal of nearly 100%.
    image = axes.imshow(percents, cmap=colours, norm=PowerNorm(0.5, vmin=0, vmax=100), interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, ticks=[0, 1, 5, 10, 25, 50, 75, 100], fraction=0.03, pad=0.02)
    bar.set_label("% of the images of the class")
    bar.outline.set_visible(False)
    size = min(9.0, max(6.0, inches * 72 * 0.62))
    every = max(1, -(-int(size * 1.15) // max(1, int(inches * 72))))
    shown = range(0, len(names), every)
    axes.set_xticks(shown, [names[i] for i in shown], rotation=90, fontsize=size)
    axes.set_yticks(shown, [names[i] for i in shown], fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _write_counts(axes: "Axes", counts: "np.ndarray[Any, Any]", percents: "np.ndarray[Any, Any]") -> None:
    for row, of_row in enumerate(counts.tolist()):
        for column, count in enumerate(of_row):
            if count:
                colour = "white" if percents[row, column] > 30 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
