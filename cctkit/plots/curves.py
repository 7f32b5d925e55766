"""Plots of loss and accuracy per epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.plots.frame import COLOURS, GREY, label, legend_name, mark_epoch, new_figure, save_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]
"""The lines of a `metrics.jsonl`."""

_LINES: Any = {"train": "--", "val": ":", "test": "-"}
_HELD_OUT_LINE: Any = "-"  # if there are several runs
_MARKERS = ("", "o", "s", "^", "D", "v")  # if there are more runs than colours
_RING: dict[str, Any] = {"marker": "o", "markersize": 9, "fillstyle": "none", "color": "#000000", "linestyle": ""}


def draw_curves(runs: Mapping[str, Records], path: Path, *, choose_by: str = "top1") -> None:
    """Plot loss and accuracy of one or several runs. A ring marks where the train loss falls below the held-out loss.

    choose_by: what the best epoch was chosen by, which is then shown: `balanced` for the balanced accuracy instead of top-1,
        `loss` for the loss without label smoothing.

    Raises: UserError if the file name does not end in .png, .svg or .pdf, or the file cannot be written.
    """
    ending, accuracy_ending = loss_ending(runs, choose_by), accuracy_ending_of(runs, choose_by)
    with style():
        figure, (loss, accuracy) = new_figure(columns=2, width=11)
        for number, (name, records) in enumerate(runs.items()):
            keys = (ending, accuracy_ending)
            _draw_run(loss, accuracy, records, endings=keys, name=name if len(runs) > 1 else "", number=number)
        label(loss, loss_name(ending).capitalize(), "epoch", "nats per image")
        label(accuracy, accuracy_name(accuracy_ending), "epoch", "%")
        if max((len(records) for records in runs.values()), default=0) == 1:
            for axes in (loss, accuracy):
                axes.set_xlim(0.5, 1.5)
        _add_legend(figure, loss, accuracy, runs)
        save_figure(figure, path)


def loss_ending(runs: Mapping[str, Records], choose_by: str = "top1") -> str:
    """`loss_smoothed` if every record has it for the training images and the epoch is not chosen by loss, otherwise `loss`."""
    has = choose_by != "loss" and all(
        record.get("train_loss_smoothed") is not None for records in runs.values() for record in records
    )
    return "loss_smoothed" if has else "loss"


def accuracy_ending_of(runs: Mapping[str, Records], choose_by: str = "top1") -> str:
    """`balanced_accuracy_percent` if epochs are chosen by it and every record has it, otherwise `top1_percent`."""
    balanced = "balanced_accuracy_percent"
    has = all(
        any(record.get(f"{split}_{balanced}") is not None for split in _LINES) for each in runs.values() for record in each
    )
    return balanced if choose_by == "balanced" and has else "top1_percent"


def accuracy_name(ending: str) -> str:
    """The name of an accuracy in plots."""
    return "Balanced accuracy" if ending.startswith("balanced") else "Top-1 accuracy"


def loss_name(ending: str) -> str:
    """The name of a loss in plots; `loss` alone is plain cross entropy."""
    return "loss with label smoothing" if ending == "loss_smoothed" else "loss"


def held_out_split(records: Records) -> str | None:
    """The split compared with train: test if the run evaluated it every epoch, otherwise val; None if there is neither."""
    has = {key.partition("_")[0] for record in records for key, value in record.items() if value is not None}
    return next((split for split in ("test", "val") if split in has), None)


def crossing_epoch(records: Records, ending: str = "loss_smoothed") -> int | None:
    """The epoch from which the train loss stays below the held-out loss: the report's sign of overfitting."""
    crossing = None
    split = held_out_split(records)
    for record in records:
        train, held_out = record.get(f"train_{ending}"), record.get(f"{split}_{ending}")
        if train is None or held_out is None:
            continue
        if train >= held_out:
            crossing = None
        elif crossing is None:
            crossing = int(record["epoch"])
    return crossing


def _draw_run(loss: "Axes", accuracy: "Axes", records: Records, *, endings: tuple[str, str], name: str, number: int) -> None:
    """Plot the splits of one run in different colours, or, if it has a name, train and held-out in the run's colour."""
    held_out = held_out_split(records)
    marker = _MARKERS[number // len(COLOURS) % len(_MARKERS)] or ("o" if len(records) < 3 else "")
    for j, (split, line) in enumerate(_LINES.items()):
        if name and split not in ("train", held_out):
            continue
        look: dict[str, Any] = {
            "color": COLOURS[(number if name else j) % len(COLOURS)],
            "linestyle": _HELD_OUT_LINE if name and split == held_out else line,
            "marker": marker,
            "markersize": 5,
            "markevery": max(1, len(records) // 10),
            "label": legend_name(name or split) if split == (held_out or "train") or not name else "_",
        }
        for axes, ending in zip((loss, accuracy), endings, strict=True):
            key = f"{split}_{ending}"
            if any(record.get(key) is not None for record in records):
                values = [float("nan") if record.get(key) is None else record[key] for record in records]
                axes.plot([record["epoch"] for record in records], values, **look)
    crossing = crossing_epoch(records, endings[0])
    if crossing is not None:
        loss.plot(
            [crossing],
            [record[f"train_{endings[0]}"] for record in records if record["epoch"] == crossing][:1],
            **_RING,
            zorder=5,
        )
        if not name:
            first, last = records[0]["epoch"], records[-1]["epoch"]
            mark_epoch(loss, crossing, f"train below {held_out}\nfrom epoch {crossing}", left=2 * crossing > first + last)


def _add_legend(figure: "Figure", loss: "Axes", accuracy: "Axes", runs: Mapping[str, Records]) -> None:
    """For one run, its splits in each plot; for several, their names and line styles below."""
    from matplotlib.lines import Line2D

    if len(runs) == 1:
        for axes in (loss, accuracy):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best")
        return
    found = {held_out_split(records) for records in runs.values()}
    held_out = " or ".join(split for split in ("test", "val") if split in found)
    keys = [Line2D([], [], color=GREY, linestyle=_LINES["train"], label="train")]
    keys += [Line2D([], [], color=GREY, linestyle=_HELD_OUT_LINE, label=held_out)] if held_out else []
    ring = Line2D([], [], **_RING, label=f"train loss falls below {held_out} loss")
    figure.legend(
        handles=[*accuracy.get_legend_handles_labels()[0], *keys, *([ring] if held_out else [])],
        loc="outside lower center",
        ncols=3,
    )
