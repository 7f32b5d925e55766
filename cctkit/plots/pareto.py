"""Accuracy against parameters, with the front that no other model beats."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.plots.frame import COLOURS, GREY, check_picture, label, legend_name, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import BboxBase

_FAMILIES = ("cct", "cvt", "vit_lite", "vit", "condensenet", "densenet")
_LABELLED = 40
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (7, 12, 20, 30, 42, 56)  # points
Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model in the picture. group: those that a front is drawn of; own: a run of the user's."""

    name: str
    family: str
    group: str
    params_millions: float
    top1_percent: float
    on_front: bool
    own: bool = False


def draw_pareto(panels: Mapping[str, Sequence[Point]], path: Path, *, threshold: Mapping[str, float] | None = None) -> None:
    """A panel for each title: parameters (logarithmic) and top-1, colours by family, the front of each group as a line.

    threshold: titles whose panel has a line at this top-1, under which there is no score.

    Raises: UserError for a file name that is no .png, .svg or .pdf, or where the file cannot be written.
    """
    check_picture(path)
    with style():
        figure, all_axes = new_figure(rows=len(panels), width=9, height=5.8)
        for axes, (title, points) in zip(all_axes, panels.items(), strict=True):
            _draw_panel(axes, title, points, (threshold or {}).get(title))
        figure.draw_without_rendering()  # settles the layout, so that labels can be placed in pixels
        for axes, points in zip(all_axes, panels.values(), strict=True):
            _place_names(axes, points)
        save_figure(figure, path)


def _colour(family: str) -> str:
    return COLOURS[_FAMILIES.index(family) if family in _FAMILIES else -1]


def _draw_panel(axes: "Axes", title: str, points: Sequence[Point], threshold: float | None) -> None:
    groups = list(dict.fromkeys(point.group for point in points))
    for group, line in zip(groups, ("-", "--", "-.", ":") * len(groups), strict=False):
        front = sorted((p.params_millions, p.top1_percent) for p in points if p.group == group and p.on_front)
        if len(front) > 1:
            name = f"front, {legend_name(group)}"
            axes.plot(*zip(*front, strict=True), color=GREY, linestyle=line, linewidth=1, zorder=1, label=name)
    for point in points:
        axes.plot([point.params_millions], [point.top1_percent], zorder=3, **_marker(point, groups))
    if threshold is not None and min(point.top1_percent for point in points) < threshold:
        axes.axhspan(-1, threshold, color="#000000", alpha=0.05, linewidth=0, label=f"under {threshold:g}%: no score")
    axes.set_xscale("log")
    _set_limits(axes, points)
    label(axes, legend_name(title), "parameters, millions (true count where known)", "top-1 accuracy, %")
    _set_ticks(axes)
    _add_legend(axes, points, groups)


def _marker(point: Point, groups: Sequence[str]) -> dict[str, Any]:
    """Colour by family; filled in the last group, open in the others; a star for the user's own."""
    colour = _colour(point.family)
    filled = point.group == groups[-1]
    shape = {"marker": "*", "markersize": 13} if point.own else {"marker": "o", "markersize": 7}
    return {"color": colour, "markerfacecolor": colour if filled else "white", "markeredgewidth": 1.4, "linestyle": "", **shape}


def _set_limits(axes: "Axes", points: Sequence[Point]) -> None:
    """Room for the names around the points."""
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
        others = ", ".join(legend_name(group) for group in groups[:-1])
        keys.append(
            Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle="", markersize=7, label=f"open: {others}")
        )
    if any(point.own for point in points):
        keys.append(Line2D([], [], color=GREY, marker="*", linestyle="", markersize=13, label="own run"))
    axes.legend(handles=[*keys, *axes.get_legend_handles_labels()[0]], loc="best")


def _place_names(axes: "Axes", points: Sequence[Point]) -> None:
    """A name beside each point, none over another and, where there is room, over no point or front; where there is none for it,
    a name is left out. Of very many points only the fronts' and the own are named."""
    shown = [point for point in points if len(points) <= _LABELLED or point.on_front or point.own]
    scale = axes.figure.dpi / 72  # pixels a point
    taken, inside, names = _obstacles(axes, points, scale), _box(axes.bbox), list[Box]()
    for point in sorted(shown, key=lambda point: (not point.on_front, point.params_millions)):
        at = (point.params_millions, point.top1_percent)
        text = axes.annotate(legend_name(point.name), at, xytext=(0, 0), textcoords="offset points", fontsize=8)
        text.set_in_layout(False)
        extent = text.get_window_extent()
        x, y = axes.transData.transform(at).tolist()
        places = _places(x, y, extent.width, extent.height, scale)
        distance, box = min(places, key=lambda place: _cost(place[1], taken, inside) + place[0])
        if any(_shared(box, name) for name in names):
            text.remove()
            continue
        names.append(box)
        text.set_position(((box[0] - extent.x0) / scale, (box[1] - extent.y0) / scale))
        taken.append(box)
        if distance > _DISTANCES[0]:
            nearest = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
            taken += [_around(*place, scale) for place in _between((x, y), nearest)]
            line = axes.transData.inverted().transform([(x, y), nearest])
            axes.plot(line[:, 0], line[:, 1], color=GREY, linewidth=0.6, zorder=2)


def _obstacles(axes: "Axes", points: Sequence[Point], scale: float) -> list[Box]:
    """What no name should cover: points, fronts and the legend."""
    places = axes.transData.transform([(point.params_millions, point.top1_percent) for point in points]).tolist()
    boxes = [_around(x, y, 5 * scale) for x, y in places]
    boxes += [_around(x, y, 2 * scale) for x, y in _front_pixels(axes)]
    legend = axes.get_legend()
    if legend is not None:
        boxes.append(_box(legend.get_window_extent()))
    return boxes


def _front_pixels(axes: "Axes") -> Iterator[tuple[float, float]]:
    """Points along the lines of the fronts, a few pixels apart."""
    for line in axes.get_lines():
        corners = axes.transData.transform(line.get_xydata()).tolist()
        for start, end in itertools.pairwise(corners):
            yield from _between(start, end)


def _between(start: Sequence[float], end: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Points from `start` to `end`, 6 pixels apart or nearer."""
    steps = 1 + int(math.dist(start, end) / 6)
    yield from (
        (start[0] + (end[0] - start[0]) * i / steps, start[1] + (end[1] - start[1]) * i / steps) for i in range(steps + 1)
    )


def _places(x: float, y: float, width: float, height: float, scale: float) -> Iterator[tuple[float, Box]]:
    """Boxes of this size around (x, y), near ones first, and their distance in points."""
    for distance in _DISTANCES:
        for right, up in _DIRECTIONS:
            gap = distance * scale
            left = x + (right - 1) / 2 * width + right * gap
            bottom = y + (up - 1) / 2 * height + up * gap
            yield distance, (left, bottom, left + width, bottom + height)


def _cost(box: Box, taken: Sequence[Box], inside: Box) -> float:
    """The area that a box shares with what is there, and has outside of the axes, in square pixels."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, other) for other in taken) + 3 * (area - _shared(box, inside))


def _shared(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _box(bbox: "BboxBase") -> Box:
    return float(bbox.x0), float(bbox.y0), float(bbox.x1), float(bbox.y1)


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius
