"""Plots as picture files, through matplotlib's object interface: no display and no global state."""

from cctkit.plots.confusion import draw_confusion
from cctkit.plots.curves import (
    accuracy_ending_of,
    accuracy_name,
    crossing_epoch,
    draw_curves,
    held_out_split,
    loss_ending,
    loss_name,
)
from cctkit.plots.frame import check_picture
from cctkit.plots.grid import Tile, draw_grid
from cctkit.plots.pareto import Point, draw_pareto
from cctkit.plots.schedule import Curve, draw_schedule

__all__ = [
    "Curve",
    "Point",
    "Tile",
    "accuracy_ending_of",
    "accuracy_name",
    "check_picture",
    "crossing_epoch",
    "draw_confusion",
    "draw_curves",
    "draw_grid",
    "draw_pareto",
    "draw_schedule",
    "held_out_split",
    "loss_ending",
    "loss_name",
]
