"""What stands on the page as tables: figures, settings, epochs, classes, layers, environment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cctkit.config.fields import flag_name
from cctkit.evaluation.calibration import ReliabilityBin
from cctkit.inspection.run import InspectedRun, NoDataError
from cctkit.runs.runfiles import command_line
from cctkit.summary.view import MB, Summary, memory_title
from cctkit.text import counted, json_text


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table. value: the number by which it is sorted; None: its text."""

    text: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, of numbers or of text."""

    name: str
    is_number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that can be sorted. name: what it is a table of, for readers who hear the page."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number of `result.json` with its name. key: in `result.json`. note: its interval, or what it is made of."""

    key: str
    name: str
    value: float
    text: str
    note: str = ""


def _number(value: float | None, form: str) -> Cell:
    return Cell("") if value is None else Cell(format(value, form), value)


def _percent(value: float | None, digits: int = 2) -> Cell:
    return Cell("") if value is None else Cell(f"{value:.{digits}f}%", value)


def figures(result: Mapping[str, Any]) -> list[Figure]:
    """The figures of a result; those that a result of an earlier version lacks are left out."""
    params = result["params"]
    rows = [
        ("top1_percent", "top-1", "{:.2f}%", _interval(result, "top1")),
        ("balanced_accuracy_percent", "balanced accuracy", "{:.2f}%", _interval(result, "balanced_accuracy")),
        ("macro_f1_percent", "macro F1", "{:.2f}%", _interval(result, "macro_f1")),
        ("top5_percent", "top-5", "{:.2f}%", ""),
        ("loss", "loss", "{:.4f}", "nats per image"),
        ("ece", "calibration error", "{:.4f}", ""),
        ("temperature", "temperature", "{:.4g}", "fitted on the validation images"),
        ("calibrated_loss", "loss with the temperature", "{:.4f}", "nats per image"),
        ("calibrated_ece", "calibration error with the temperature", "{:.4f}", ""),
        ("num_images", "test images", "{:,}", _copies(result)),
        ("score", "score", "{:.3f}", "100 * (top-1 - 70) / millions of parameters"),
    ]
    found = [
        Figure(key=key, name=name, value=result[key], text=form.format(result[key]), note=note)
        for key, name, form, note in rows
        if isinstance(result.get(key), (int, float))
    ]
    note = f"{params['without_embeddings']:,} without embeddings"
    return [
        *found,
        Figure(key="params.total", name="parameters", value=params["total"], text=f"{params['total']:,}", note=note),
    ]


def _interval(result: Mapping[str, Any], name: str) -> str:
    interval = result.get(f"{name}_interval_percent")
    return "95% interval {:.2f} to {:.2f}".format(*interval) if interval else ""


def _copies(result: Mapping[str, Any]) -> str:
    number = result.get("copies_in_train")
    return f"{number:,} of them in train too" if number else ""


def settings_tables(run: InspectedRun) -> tuple[Table, Table]:
    """The settings that were chosen, by the user or the recipe, and those that are defaults."""
    rows = [
        (str(run.origins.get(name, "")), [Cell(flag_name(name)), Cell(_plain(value)), Cell(str(run.origins.get(name, "")))])
        for name, value in run.config.flat().items()
    ]
    columns = [Column("setting"), Column("value"), Column("from")]
    chosen = sorted((row for row in rows if row[0] != "default"), key=lambda row: (row[0].startswith("recipe"), row[0]))
    others = [row for row in rows if row[0] == "default"]
    return (
        Table(name="settings that were chosen", columns=columns, rows=[cells for _, cells in chosen]),
        Table(name="settings left at their defaults", columns=columns[:2], rows=[cells[:2] for _, cells in others]),
    )


def _plain(value: object) -> str:
    """A JSON value as a reader writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json_text(value)


def environment_table(env: Mapping[str, Any]) -> Table:
    """`env.json`, a row for each value."""
    return Table(
        name="environment",
        columns=[Column("name"), Column("value")],
        rows=[[Cell(name), Cell(value)] for name, value in _flat({**env, "command": command_line(env)})],
    )


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, _plain(value)


def epochs_table(epochs: Sequence[Mapping[str, Any]]) -> Table:
    """`metrics.jsonl`, with the columns that the run has."""
    known = [
        ("epoch", "epoch", "d"),
        *(
            (f"{split}_{key}", f"{split} {name}", form)
            for split in ("train", "val", "test")
            for key, name, form in (("loss", "loss", ".4f"), ("top1_percent", "top-1 %", ".2f"))
        ),
        ("lr", "learning rate", ".3g"),
        ("train_seconds", "seconds", ".1f"),
        ("images_per_s", "images/s", ",.0f"),
    ]
    shown = [each for each in known if any(isinstance(record.get(each[0]), (int, float)) for record in epochs)]
    rows = [
        [_number(value if isinstance(value := record.get(key), (int, float)) else None, form) for key, _, form in shown]
        for record in epochs
    ]
    return Table(name="epochs", columns=[Column(name, is_number=True) for _, name, _ in shown], rows=rows)


def class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The metrics of each class, from the rows of `per_class`."""
    columns = ["images", "precision", "recall", "F1", "predicted"]
    return Table(
        name="metrics by class",
        columns=[Column("class"), *(Column(name, is_number=True) for name in columns)],
        rows=[
            [
                Cell(row["class"]),
                _number(row["num_images"], ",d"),
                *(_percent(row[f"{key}_percent"], 1) for key in ("precision", "recall", "f1")),
                _number(row["num_predicted"], ",d"),
            ]
            for row in rows
        ],
    )


def confused_table(pairs: Sequence[tuple[str, str, int, int]]) -> Table:
    """Class, prediction, number of images, and images of the class."""
    columns = [Column("class"), Column("taken for"), Column("images", is_number=True), Column("of the class", is_number=True)]
    rows = [
        [Cell(own), Cell(other), Cell(f"{count:,}", count), Cell(f"{100 * count / total:.1f}%", 100 * count / total)]
        for own, other, count, total in pairs
    ]
    return Table(name="most confused classes", columns=columns, rows=rows)


def reliability_table(bins: Sequence[ReliabilityBin]) -> Table:
    """The bins that have images."""
    columns = ["from", "to", "images", "mean confidence", "accuracy"]
    rows = [
        [
            _number(each.low, ".3f"),
            _number(each.high, ".3f"),
            _number(each.num_images, ",d"),
            _number(each.mean_confidence, ".3f"),
            _number(each.accuracy, ".3f"),
        ]
        for each in bins
        if each.num_images
    ]
    return Table(name="bins of confidence", columns=[Column(name, is_number=True) for name in columns], rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes and memory of the model. assumed: what the memory figures assume."""

    totals: Table
    layers: Table
    assumed: Sequence[str]


def sizes(summary: Summary) -> Sizes:
    """The totals and the layers of a summary."""
    height, width = summary.image_size
    totals = [
        ("image size", f"{height} x {width}", None),
        ("classes", f"{summary.num_classes:,}", summary.num_classes),
        ("parameters", f"{summary.params:,}", summary.params),
        ("parameters that are trained", f"{summary.trainable_params:,}", summary.trainable_params),
        ("multiply-adds per image", f"{summary.macs:,}", summary.macs),
        ("of these in attention", f"{summary.macs_attention:,}", summary.macs_attention),
    ]
    if summary.memory is not None:
        parts = ("peak", "weights", "gradients", "optimizer", "activations")
        values = [(part, getattr(summary.memory, f"{part}_bytes")) for part in parts]
        totals += [(f"memory of a step: {part}", f"{number / MB:,.1f} MB", number) for part, number in values]
    layers = [
        [
            Cell("\u2003" * (layer.depth - 1) + layer.layer),
            Cell(str(layer.output_shape)),
            Cell(f"{layer.params:,}", layer.params),
        ]
        for layer in summary.layers
    ]
    return Sizes(
        totals=Table(
            name="sizes and memory",
            columns=[Column("what"), Column("value")],
            rows=[[Cell(name), Cell(text, value)] for name, text, value in totals],
        ),
        layers=Table(
            name="layers", columns=[Column("layer"), Column("output shape"), Column("parameters", is_number=True)], rows=layers
        ),
        assumed=[*([memory_title([summary])] if summary.memory else []), *summary.notes],
    )


def epoch_sentence(run: InspectedRun) -> str:
    """Which epochs there are, and which one the weights are of."""
    trained = run.trained.info.trained if run.trained else None
    if trained is None:
        return f"{counted(len(run.epochs), 'epoch')} of {run.config.epochs:,} finished."
    how = "the best on the validation images" if trained.chosen_by == "validation" else "the newest"
    state = "Finished" if run.result else f"Not finished: {len(run.epochs):,} of {counted(run.config.epochs, 'epoch')} so far"
    return f"{state}. The weights are those of epoch {trained.epoch:,} of {trained.planned_epochs:,}, {how}."


def need_rows(result: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The rows of `per_class`. Raises: NoDataError if the result is of a version that did not write them."""
    rows: Sequence[Mapping[str, Any]] = result.get("per_class", ())
    if not rows:
        raise NoDataError(
            "The run is of a version of cctkit that did not keep the metrics of each class; cctkit eval prints them."
        )
    return rows
