"""Picture of images in a grid, each with a caption."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.plots.frame import new_figure, save_figure, style
from cctkit.text import safe_text

if TYPE_CHECKING:
    import numpy as np

_CELL_INCHES = 1.5
_LINE_INCHES = 0.13
_GAP_INCHES = 0.16
_HEAD_INCHES = 0.36
_LETTERS = 24  # of a line of a caption
_NAME_LENGTH = 60  # of a line before it is wrapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """An image with its caption, in lines. pixels: uint8 (height, width, 3)."""

    pixels: "np.ndarray[Any, Any]"
    caption: Sequence[str]


def draw_grid(tiles: Sequence[Tile], path: Path, *, columns: int, title: str) -> None:
    """Draw images row by row, each under its caption.

    Raises: UserError if the file name does not end in .png, .svg or .pdf, or the file cannot be written.
    """
    captions = [[part for line in tile.caption for part in _wrapped(line)] for tile in tiles]
    above = _LINE_INCHES * max(map(len, captions)) + 0.06
    tallest = max(min(1.0, tile.pixels.shape[0] / tile.pixels.shape[1]) for tile in tiles)  # height of a cell by its width
    across, down = _CELL_INCHES + _GAP_INCHES, above + _CELL_INCHES * tallest + _GAP_INCHES
    width, height = _GAP_INCHES + columns * across, _HEAD_INCHES + -(-len(tiles) // columns) * down
    with style():
        figure, (axes,) = new_figure(width=width, height=height, margins=(0, 0, 1, 1))
        axes.set_axis_off()
        for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
            row, column = divmod(number, columns)
            left, top = _GAP_INCHES + column * across, _HEAD_INCHES + row * down + above
            high, wide = (_CELL_INCHES * side / max(tile.pixels.shape[:2]) for side in tile.pixels.shape[:2])
            axes.imshow(tile.pixels, interpolation="nearest", extent=(left, left + wide, top + high, top))
            axes.text(left, top - 0.05, "\n".join(caption), fontsize=7, va="bottom")
        axes.text(_GAP_INCHES, 0.1, safe_text(title, 200), fontsize=10, va="top")
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")  # in inches, from the upper left corner
        save_figure(figure, path)


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(safe_text(line, _NAME_LENGTH), _LETTERS)[:2] or [""]
