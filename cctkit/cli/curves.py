"""`cctkit curves`."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cctkit.cli.options import PicturePath
from cctkit.cli.tables import print_text
from cctkit.errors import UserError
from cctkit.runs.paths import DEFAULT_ROOT, RunPaths, named_run, newest_run
from cctkit.runs.runfiles import read_metrics, read_settings
from cctkit.text import safe_text

Records = Sequence[Mapping[str, Any]]


def curves(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...",
            help="run directories, finished or not, or names that come with cctkit (default: the newest run)",
            show_default=False,
        ),
    ] = None,
    output: PicturePath = None,
) -> None:
    """Plot loss and top-1 per epoch of one or several runs, and mark where the train loss falls below the held-out loss.

    Runs with --choose-by balanced are plotted by balanced accuracy, those with --choose-by loss by the loss without smoothing.

    Held-out images are the test images if the run evaluated them every epoch (--test-every-epoch), otherwise val.
    """
    if not runs:
        runs = [newest_run(DEFAULT_ROOT)]
        print_text(f"using the newest run, {safe_text(runs[0])}", stream=sys.stderr)
    named = _named(runs)
    records, choose_by = {name: read_records(path) for name, path in named.items()}, _choose_by(named.values())
    from cctkit.plots import check_picture, draw_curves

    if output is not None:
        check_picture(output)
    _print_curves(records, choose_by)
    if output is not None:
        draw_curves(records, output, choose_by=choose_by)
        print_text(f"wrote {safe_text(output)}", stream=sys.stderr)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """The runs by directory name, or by path if two have the same name; duplicates are dropped."""
    unique = list(dict.fromkeys(map(named_run, paths)))
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


def _choose_by(paths: Iterable[Path]) -> str:
    """What the best epoch of each of the runs is chosen by; top1 if they differ, or it is not known."""
    found = set()
    for path in paths:
        try:
            found.add(read_settings(RunPaths(path).config)[0].choose_by)
        except UserError:  # a file of metrics, or a run that another version has written
            found.add("top1")
    return found.pop() if len(found) == 1 else "top1"


def _print_curves(runs: Mapping[str, Records], choose_by: str) -> None:
    from cctkit.cli.tables import result_console
    from cctkit.cli.terminal import Line, line_plot
    from cctkit.plots import accuracy_ending_of, accuracy_name, crossing_epoch, held_out_split, loss_ending, loss_name

    ending, accuracy = loss_ending(runs, choose_by), accuracy_ending_of(runs, choose_by)
    coloured = result_console().color_system is not None
    titles = {ending: f"{loss_name(ending).capitalize()}, nats per image", accuracy: f"{accuracy_name(accuracy)}, %"}
    for key, title in titles.items():
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
    print_text("\n".join(_facts(runs, ending, accuracy, choose_by)))


def _facts(runs: Mapping[str, Records], ending: str, accuracy: str, choose_by: str) -> list[str]:
    """The accuracy of each run's last epoch, and the epoch from which the train loss is below the held-out loss.

    Also the best epoch, unless it is chosen by top-1.
    """
    from cctkit.plots import accuracy_name, crossing_epoch, held_out_split, loss_name

    facts = []
    loss = loss_name(ending)
    for name, records in runs.items():
        last = records[-1]
        figures = [
            f"{split} {last[f'{split}_{accuracy}']:.2f}%"
            for split in ("train", "val", "test")
            if last.get(f"{split}_{accuracy}") is not None
        ]
        words = accuracy_name(accuracy).lower().replace("top-1 accuracy", "top-1")
        fact = f"{name}: epoch {last['epoch']}, {words} {', '.join(figures) or 'unknown'}{_best(records, choose_by)}"
        held_out, crossing = held_out_split(records), crossing_epoch(records, ending)
        if crossing:
            fact += f"; from epoch {crossing} on, the {loss} is lower on train than on {held_out}"
        elif held_out:
            fact += f"; the {loss} is not lower on train than on {held_out}"
        facts.append(fact)
    return facts


def _best(records: Records, choose_by: str) -> str:
    """The epoch with the best balanced accuracy or loss on the validation images, in words; "" if it goes by top-1."""
    key, words, sign = {
        "balanced": ("val_balanced_accuracy_percent", "balanced accuracy", 1),
        "loss": ("val_loss", "loss", -1),
    }.get(choose_by, ("", "", 0))
    known = [record for record in records if record.get(key) is not None]
    if not known:
        return ""
    best = max(known, key=lambda record: sign * record[key])
    value = f"{best[key]:.2f}%" if sign > 0 else f"{best[key]:.4f}"
    return f"; best {words} on val: {value} in epoch {best['epoch']}"
