"""Plot of accuracy against parameters, with Pareto fronts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.plots.frame import COLOURS, GREY, label, legend_name, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import BboxBase

_FAMILIES = ("cct", "cvt", "vit_lite", "vit", "condensenet", "densenet", "tct")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model in the plot.

    group: models with the same group share a Pareto front.
    ours: whether cctkit has trained it: an own run, or weights that come with it.
    """

    name: str
    family: str
    group: str
    params_millions: float
    top1_percent: float
    on_front: bool
    ours: bool = False


def draw_pareto(panels: Mapping[str, Sequence[Point]], path: Path, *, threshold: Mapping[str, float] | None = None) -> None:
    """Plot one panel per title: parameters (logarithmic) against top-1, coloured by family, with the Pareto front per group.

    threshold: per title, the top-1 accuracy in percent below which there is no score; that area is shaded.

    Raises: UserError if the file name does not end in .png, .svg or .pdf, or the file cannot be written.
    """
    with style():
        figure, all_axes = new_figure(rows=len(panels), width=9, height=5.8)
        for axes, (title, points) in zip(all_axes, panels.items(), strict=True):
            _draw_panel(axes, title, points, (threshold or {}).get(title))
        figure.draw_without_rendering()  # computes the layout, so that labels can be placed in pixels
        for axes, points in zip(all_axes, panels.values(), strict=True):
            _name_points(axes, points)
        save_figure(figure, path)


def _colour(family: str) -> str:
    return COLOURS[_FAMILIES.index(family)] if family in _FAMILIES else GREY


def _draw_panel(axes: "Axes", title: str, points: Sequence[Point], threshold: float | None) -> None:
    groups = list(dict.fromkeys(point.group for point in points))
    for group, line in zip(groups, ("-", "--", "-.", ":") * len(groups), strict=False):
        front = sorted((p.params_millions, p.top1_percent) for p in points if p.group == group and p.on_front)
        if len(front) > 1:
            name = f"Pareto front, {legend_name(group)}"
            axes.plot(*zip(*front, strict=True), color=GREY, linestyle=line, linewidth=1, zorder=1, label=name)
    for point in points:
        axes.plot([point.params_millions], [point.top1_percent], zorder=3, **_marker(point, groups))
    if threshold is not None and min(point.top1_percent for point in points) < threshold:
        axes.axhspan(-1, threshold, color="#000000", alpha=0.05, linewidth=0, label=f"below {threshold:g}%: no score")
    axes.set_xscale("log")
    _set_limits(axes, points)
    label(axes, legend_name(title), "parameters, millions (true number if known)", "top-1 accuracy, %")
    _set_ticks(axes)
    _add_legend(axes, points, groups)


def _marker(point: Point, groups: Sequence[str]) -> dict[str, Any]:
    """Colour by family; filled in the last group, open in the others; a star for what cctkit has trained."""
    colour = _colour(point.family)
    filled = point.group == groups[-1]
    shape = {"marker": "*", "markersize": 13} if point.ours else {"marker": "o", "markersize": 7}
    return {"color": colour, "markerfacecolor": colour if filled else "white", "markeredgewidth": 1.4, "linestyle": "", **shape}


def _set_limits(axes: "Axes", points: Sequence[Point]) -> None:
    """Axis limits with room for names around the points."""
    sizes, accuracies = ([p.params_millions for p in points], [p.top1_percent for p in points])
    factor = max(1.6, (max(sizes) / min(sizes)) ** 0.12)
    margin = max(1.0, 0.12 * (max(accuracies) - min(accuracies)))
    axes.set_xlim(min(sizes) / factor, max(sizes) * factor)
    axes.set_ylim(max(0.0, min(accuracies) - margin), min(100.5, max(accuracies) + margin))


def _set_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    between = (1.0, 2.0, 5.0) if math.log10(high / low) < 3.5 else (1.0, 3.0)
    axes.xaxis.set_major_locator(LogLocator(subs=between, numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _add_legend(axes: "Axes", points: Sequence[Point], groups: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    families = sorted({p.family for p in points}, key=lambda name: (_FAMILIES.index(name) if name in _FAMILIES else 99, name))
    keys: list[Any] = [
        Line2D([], [], color=_colour(name), marker="o", linestyle="", markersize=7, label=legend_name(name))
        for name in families
    ]
    if len(groups) > 1:
        others = f"open markers: {', '.join(map(legend_name, groups[:-1]))}"
        keys.append(Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle="", markersize=7, label=others))
    if any(point.ours for point in points):
        keys.append(Line2D([], [], color=GREY, marker="*", linestyle="", markersize=13, label="trained with cctkit"))
    axes.legend(handles=[*keys, *axes.get_legend_handles_labels()[0]], loc="best")


def _name_points(axes: "Axes", points: Sequence[Point]) -> None:
    """Names of points on a front and of models that cctkit has trained, left or right of the point if there is room."""
    placed: list[BboxBase] = []
    for point in sorted(points, key=lambda point: (not point.ours, point.params_millions)):
        if not (point.on_front or point.ours):
            continue
        at = (point.params_millions, point.top1_percent)
        for side, place in (("right", (-4, 5)), ("left", (7, -3))):
            text = axes.annotate(
                legend_name(point.name), at, xytext=place, textcoords="offset points", fontsize=8, horizontalalignment=side
            )
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in placed):
                placed.append(box)
                break
            text.remove()
