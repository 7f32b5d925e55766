"""Plot of learning rates per epoch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cctkit.plots.frame import COLOURS, label, legend_name, mark_epoch, new_figure, save_figure, style

_LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A learning rate against epochs.

    epochs: number of finished epochs, from 0.
    stepped: whether each value holds until the next.
    """

    epochs: Sequence[float]
    lr: Sequence[float]
    stepped: bool = False


def draw_schedule(
    curves: Mapping[str, Curve],
    path: Path,
    *,
    title: str,
    marks: Mapping[str, float] | None = None,
    second_axis: tuple[str, float] | None = None,
) -> None:
    """Plot learning rates by name.

    marks: names of vertical lines, and their epochs.
    second_axis: the name of a second y axis, and its ratio to the first.

    Raises: UserError if the file name does not end in .png, .svg or .pdf, or the file cannot be written.
    """
    with style():
        figure, (axes,) = new_figure(margins=(0.13, 0.13, 0.97 if second_axis is None else 0.86, 0.92))
        for number, (name, curve) in enumerate(curves.items()):
            axes.plot(
                curve.epochs,
                curve.lr,
                color=COLOURS[number % len(COLOURS)],
                linestyle=_LINES[number % len(_LINES)],
                marker="o" if len(curve.epochs) == 1 else "",
                drawstyle="steps-post" if curve.stepped else "default",
                label=legend_name(name),
            )
        if second_axis is not None:
            name, factor = second_axis
            axes.secondary_yaxis("right", functions=_scaled_by(factor)).set_ylabel(name)
        axes.set_xlim(0, math.ceil(max(max(curve.epochs) for curve in curves.values())))
        axes.set_ylim(bottom=0)
        for text, epoch in (marks or {}).items():
            mark_epoch(axes, epoch, text, top=False)
        label(axes, title, "epoch", "learning rate")
        if len(curves) > 1:
            axes.legend(loc="best")
        save_figure(figure, path)


def _scaled_by(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Conversion to an axis that is `factor` times as large, and back."""
    return lambda y: y * factor, lambda y: y / factor
