"""`cctkit curves`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cctkit.cli.options import PicturePath
from cctkit.cli.tables import print_text
from cctkit.errors import UserError
from cctkit.runs.paths import DEFAULT_ROOT, RunPaths, newest_run
from cctkit.runs.runfiles import read_metrics
from cctkit.text import safe_text

Records = Sequence[Mapping[str, Any]]


def curves(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="run directories, finished or not (default: the newest run)", show_default=False),
    ] = None,
    output: PicturePath = None,
) -> None:
    """Plot loss and top-1 per epoch of one or several runs, and mark where the train loss falls below the held-out loss.

    Held-out images are the test images if the run evaluated them every epoch (--test-every-epoch), otherwise val.
    """
    if not runs:
        runs = [newest_run(DEFAULT_ROOT)]
        print_text(f"using the newest run, {safe_text(runs[0])}", stream=sys.stderr)
    records = {name: read_records(path) for name, path in _named(runs).items()}
    from cctkit.plots import check_picture, draw_curves

    if output is not None:
        check_picture(output)
    _print_curves(records)
    if output is not None:
        draw_curves(records, output)
        print_text(f"wrote {safe_text(output)}", stream=sys.stderr)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """The runs by directory name, or by path if two have the same name; duplicates are dropped."""
    unique = list(dict.fromkeys(paths))
    names = [path.resolve().name for path in unique]
    return {safe_text(path if names.count(name) > 1 else name, 80): path for name, path in zip(names, unique, strict=True)}


def read_records(path: Path) -> list[dict[str, Any]]:
    """The epochs of a run directory or a `metrics.jsonl`, in order.

    Raises: UserError if there are none, or one is malformed.
    """
    file = RunPaths(path).metrics if path.is_dir() else path
    if not file.is_file():
        raise UserError("found no metrics", safe_text(file), "name a run directory, such as runs/NAME")
    records = read_metrics(file)
    if not records:
        raise UserError("no epoch is finished yet", safe_text(file), "try again after the first epoch")
    return records


def _print_curves(runs: Mapping[str, Records]) -> None:
    from cctkit.cli.tables import result_console
    from cctkit.cli.terminal import Line, line_plot
    from cctkit.plots import crossing_epoch, held_out_split, loss_ending, loss_name

    ending = loss_ending(runs)
    coloured = result_console().color_system is not None
    for key, title in ((ending, f"{loss_name(ending).capitalize()}, nats per image"), ("top1_percent", "Top-1 accuracy, %")):
        lines = [
            Line(
                name=f"{name} {split}" if len(runs) > 1 else split,
                x=[record["epoch"] for record in records],
                y=[record.get(f"{split}_{key}") for record in records],
            )
            for name, records in runs.items()
            for split in (("train", held_out_split(records)) if len(runs) > 1 else ("train", "val", "test"))
            if split is not None
        ]
        alone = next(iter(runs.values())) if len(runs) == 1 and key == ending else ()
        text = line_plot(lines, title=title, x_label="epoch", colour=coloured, mark=crossing_epoch(alone, ending))
        sys.stdout.write(text + "\n\n" if text else "")
    print_text("\n".join(_facts(runs, ending)))


def _facts(runs: Mapping[str, Records], ending: str) -> list[str]:
    """The top-1 accuracy of each run's last epoch, and the epoch from which the train loss is below the held-out loss."""
    from cctkit.plots import crossing_epoch, held_out_split, loss_name

    facts = []
    loss = loss_name(ending)
    for name, records in runs.items():
        last = records[-1]
        figures = [
            f"{split} {last[f'{split}_top1_percent']:.2f}%"
            for split in ("train", "val", "test")
            if last.get(f"{split}_top1_percent") is not None
        ]
        fact = f"{name}: epoch {last['epoch']}, top-1 {', '.join(figures) or 'unknown'}"
        held_out, crossing = held_out_split(records), crossing_epoch(records, ending)
        if crossing:
            fact += f"; from epoch {crossing} on, the {loss} is lower on train than on {held_out}"
        elif held_out:
            fact += f"; the {loss} is not lower on train than on {held_out}"
        facts.append(fact)
    return facts
