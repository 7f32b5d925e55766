"""Line plots in the terminal (plotext)."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

Corners = tuple[Sequence[float], Sequence[float]]
_WIDEST = 100
_HEIGHT = 18
_COLOURS = (32, 166, 36, 175, 214, 117)  # of 256: Okabe and Ito's palette, nearly
_MARKERS = ("braille", "dot", "x", "+", "o", "*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot. Points whose y is None are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def line_plot(
    lines: Sequence[Line], *, title: str, x_label: str, colour: bool, mark: float | None = None, corners: Corners = ((), ())
) -> str:
    """A plot as text, as wide as the terminal up to 100 columns, with a legend below it; "" if there is nothing to draw.

    x holds whole numbers, such as epochs. Without colour, lines differ by their markers.

    mark: x of a vertical line.
    corners: x and y values that the axes always include.
    """
    import plotext

    drawn = [line for line in lines if any(y is not None for y in line.y)]
    if not drawn:
        return ""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.theme("clear")
    plotext.plot_size(width, _HEIGHT)
    plotext.title(title)
    plotext.xlabel(x_label)
    names, points = [], []
    for number, line in enumerate(drawn):
        kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        points += kept
        marker = "*" if len(kept) == 1 and colour else _MARKERS[0 if colour else number % len(_MARKERS)]
        marker = "o" if len(kept) == 1 and marker == "braille" else marker
        paint = _COLOURS[number % len(_COLOURS)] if colour else None
        plotext.plot(*map(list, zip(*kept, strict=True)), marker=marker, color=paint)
        sample = {"braille": "⠒⠒", "dot": "••"}.get(marker, marker * 2)
        names.append(f"{plotext.colorize(sample, paint) if colour else sample} {line.name}")
    if mark is not None:
        plotext.vertical_line(mark)
    xs, ys = zip(*points, strict=True)
    _set_ticks((*xs, *corners[0]), (*ys, *corners[1]))
    text: str = plotext.build().rstrip("\n")
    plotext.clear_figure()
    return (
        "\n".join(line.rstrip() for line in (text if colour else plotext.uncolorize(text)).split("\n"))
        + f"\n  {'   '.join(names)}"
    )


def _set_ticks(xs: Sequence[float], ys: Sequence[float]) -> None:
    """Set limits and round tick values of both axes; a single value gets a margin."""
    import plotext

    low, high = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
    ticks = round_ticks(low, high, whole=True)
    plotext.xlim(low, high)
    plotext.xticks(ticks, [f"{tick:g}" for tick in ticks])
    low, high = (min(ys), max(ys)) if min(ys) < max(ys) else (min(ys) - 0.5, max(ys) + 0.5)
    ticks = round_ticks(low, high)
    plotext.ylim(low, high)
    plotext.yticks(ticks, [f"{tick:g}" for tick in ticks])


def round_ticks(low: float, high: float, *, most: int = 7, whole: bool = False) -> list[float]:
    """Tick values in [low, high], low < high: at most `most` multiples of 1, 2 or 5 times a power of ten.

    whole: only whole numbers.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most - 1)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
