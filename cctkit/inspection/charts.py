"""Line charts, bars and the confusion matrix as shapes with coordinates, which the page draws as SVG."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_WIDTH, _HEIGHT = 480, 280
_RIGHT, _TOP, _BOTTOM = 14, 12, 44
_AXIS_NAME, _DIGIT = 30, 7.6  # widths
_MOST_DOTS = 60  # of a line; with more they would touch

_NAME_LENGTH = 20
_LETTER = 6.2  # width of a letter of the smaller labels
_WITH_COUNTS = 20  # classes up to which the cells show their counts
_LARGE_CELL, _SMALL_CELL = 30, 10
_GUIDES = 10  # classes between two guides, where cells are small


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line to draw.

    colour: 1 to 4.
    y: None leaves a gap.
    dots: whether each value gets a dot with its number.
    """

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False
    dots: bool = True


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, in units of the picture."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A value; the text is shown while the pointer is on it."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; the text is shown while the pointer is on it. strength: 0 to 1, of its colour."""

    x: float
    y: float
    width: float
    height: float
    text: str
    strength: float = 1.0
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A line in units of the picture. path: SVG's `d`."""

    name: str
    colour: int
    dashed: bool
    path: str
    dots: Sequence[Dot]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart in units of the picture.

    frame: left, top, right and bottom edge of the plot.
    ring: marks a point.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Drawn]
    frame: tuple[float, float, float, float]
    width: int = _WIDTH
    height: int = _HEIGHT
    bars: Sequence[Box] = ()
    ring: Dot | None = None


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values between `low` and `high` to places between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    from_zero: bool = False,
    ring: tuple[float, float] | None = None,
) -> Chart:
    """A chart of lines with at least one value. from_zero: both axes begin at 0. ring: x and y of a point to mark."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y if y is not None]
    low, high = (0.0 if from_zero else min(xs)), max(xs)
    if low == high:
        low, high = low - 0.5, high + 0.5
    x_values = [x for x in _ticks(low, high, whole=True) if low <= x <= high]
    y_values = _ticks(0.0 if from_zero else min(ys), max(ys))
    left = _left_of(y_values)
    to_x, to_y = _Scale(low, high, left, _WIDTH - _RIGHT), _Scale(y_values[0], y_values[-1], _HEIGHT - _BOTTOM, _TOP)
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=_placed(x_values, to_x),
        y_ticks=_placed(y_values, to_y),
        lines=[_drawn(line, to_x, to_y) for line in lines],
        ring=None if ring is None else Dot(to_x(ring[0]), to_y(ring[1]), ""),
        frame=(left, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
    )


def bar_chart(
    title: str, bars: Sequence[tuple[float, float, float, str]], *, x_label: str, y_label: str, diagonal: str | None = None
) -> Chart:
    """A chart of bars over 0 to 1: from and to on the x axis, height, text.

    diagonal: name of the line from (0, 0) to (1, 1); then the y axis is from 0 to 1 too.
    """
    x_values = [each / 5 for each in range(6)]
    y_values = _ticks(0.0, max(height for _, _, height, _ in bars)) if diagonal is None else x_values
    left = _left_of(y_values)
    to_x, to_y = _Scale(0, 1, left, _WIDTH - _RIGHT), _Scale(0, y_values[-1], _HEIGHT - _BOTTOM, _TOP)
    lines = [] if diagonal is None else [Line(name=diagonal, colour=2, x=(0, 1), y=(0, 1), dashed=True, dots=False)]
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_ticks=_placed(x_values, to_x),
        y_ticks=_placed(y_values, to_y),
        lines=[_drawn(line, to_x, to_y) for line in lines],
        bars=[
            Box(to_x(low), to_y(height), round(to_x(high) - to_x(low) - 1, 2), round(to_y(0) - to_y(height), 2), text)
            for low, high, height, text in bars
        ],
        frame=(left, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
    )


def _left_of(values: Sequence[float]) -> float:
    """The left edge of the plot, with room for the name of the axis and the numbers beside it."""
    return _AXIS_NAME + _DIGIT * max(len(_number(value)) for value in values)


def _placed(values: Sequence[float], scale: _Scale) -> list[Tick]:
    return [Tick(scale(value), _number(value)) for value in values]


def _number(value: float) -> str:
    return f"{value:.6g}"


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if low == high:
        low, high = low - abs(low) / 10 - 1e-9, high + abs(high) / 10 + 1e-9
    locator = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10] if not whole else [1, 2, 5, 10], integer=whole, min_n_ticks=1)
    return [float(tick) for tick in locator.tick_values(low, high)]


def _drawn(line: Line, to_x: _Scale, to_y: _Scale) -> Drawn:
    points = [(x, y, to_x(x), to_y(y)) if y is not None else None for x, y in zip(line.x, line.y, strict=True)]
    has_dots = line.dots and sum(point is not None for point in points) <= _MOST_DOTS
    return Drawn(
        name=line.name,
        colour=line.colour,
        dashed=line.dashed,
        path=" ".join(_pieces(points)),
        dots=[Dot(p[2], p[3], f"{line.name}, {p[0]:g}: {p[1]:.5g}") for p in points if p is not None] if has_dots else [],
    )


def _pieces(points: Sequence[tuple[float, float, float, float] | None]) -> Iterator[str]:
    """The parts of a line between its gaps, as SVG."""
    for there, piece in itertools.groupby(points, key=lambda point: point is not None):
        if there:
            yield "M" + " L".join(f"{point[2]:g} {point[3]:g}" for point in piece if point is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A confusion matrix in units of the picture: rows are the classes, columns the predictions.

    cells: those with images.
    rows, columns: names of classes at their places.
    guides: places of thin lines, from the left and the top of the cells.
    """

    width: float
    height: float
    left: float
    top: float
    side: float
    cells: Sequence[Box]
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    guides: Sequence[int]
    small: bool


def matrix_chart(counts: "np.ndarray[Any, Any]", names: Sequence[str]) -> Matrix:
    """counts: (K, K), images of each class (rows) by prediction; names: of the classes, safe to show."""
    small = len(names) > _WITH_COUNTS
    cell = _SMALL_CELL if small else _LARGE_CELL
    short = [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in names]
    left = top = math.ceil(14 + _LETTER * max(map(len, short)) * (0.85 if small else 1.1)) + 16
    places = [Tick(left + cell * (i + 0.5), name) for i, name in enumerate(short)]
    totals = counts.sum(axis=1)
    cells = [
        Box(
            left + cell * column,
            top + cell * row,
            cell,
            cell,
            f"{names[row]}: {counts[row, column]:,} of {totals[row]:,} taken for {names[column]}",
            round(math.sqrt(counts[row, column] / totals[row]), 3),
            "" if small else f"{counts[row, column]:,}",
        )
        for row, column in zip(*(each.tolist() for each in counts.nonzero()), strict=True)
    ]
    side = cell * len(names)
    return Matrix(
        width=left + side + 2,
        height=top + side + 2,
        left=left,
        top=top,
        side=side,
        cells=cells,
        rows=places,
        columns=places,
        guides=range(cell * _GUIDES, side, cell * _GUIDES) if small else (),
        small=small,
    )
