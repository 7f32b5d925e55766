"""The parts of the page that are made from the files of the run alone, and what `cctkit check` finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cctkit.config.settings import DataConfig
from cctkit.data.check.check import by_severity, check_dataset
from cctkit.data.check.finding import CheckFinding
from cctkit.errors import ResourceError, UserError
from cctkit.evaluation.calibration import ReliabilityBin, reliability
from cctkit.evaluation.class_metrics import confusion_matrix, predicted_classes
from cctkit.inspection.charts import Chart, Line, Matrix, bar_chart, line_chart, matrix_chart
from cctkit.inspection.run import InspectedRun, NoDataError
from cctkit.inspection.tables import Table, confused_table, epochs_table, reliability_table, settings_tables
from cctkit.plots import accuracy_ending_of, accuracy_name, crossing_epoch, held_out_split, loss_ending, loss_name
from cctkit.runs.predictions import Predictions
from cctkit.text import counted, safe_text
from cctkit.training.schedule import lr_factor, schedule_of

_MOST_DRAWN = 200  # classes of a matrix on the page; more would make it large
_POINTS = 240  # of the learning rate
_PAIRS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsPart:
    """The settings: chosen ones and defaults."""

    chosen: Table
    others: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesPart:
    """Loss and accuracy by epoch."""

    charts: Sequence[Chart]
    sentence: str
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePart:
    """The learning rate."""

    chart: Chart
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionPart:
    """The confusion matrix. matrix: None for very many classes; then uri is the picture."""

    matrix: Matrix | None
    uri: str | None
    pairs: Table
    without_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityPart:
    """Reliability diagrams, and the number of images in the bins."""

    charts: Sequence[Chart]
    sentence: str
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingPart:
    """A finding of `check`, with its first paths."""

    severity: str
    text: str
    shown: Sequence[str]
    more: int
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPart:
    """What `check` finds. summary: the lines about the images."""

    sentence: str
    summary: Sequence[str]
    findings: Sequence[FindingPart]


def settings_part(run: InspectedRun) -> SettingsPart:
    """The settings of the run."""
    chosen, others = settings_tables(run)
    return SettingsPart(chosen=chosen, others=others)


def curves_part(run: InspectedRun) -> CurvesPart:
    """Raises: NoDataError if no epoch is finished."""
    epochs = run.need_epochs()
    ending = loss_ending({"": epochs})
    held_out, crossing = held_out_split(epochs), crossing_epoch(epochs, ending)
    ring = None
    if crossing is not None:
        ring = float(crossing), next(record[f"train_{ending}"] for record in epochs if record["epoch"] == crossing)
    accuracies = dict.fromkeys(("top1_percent", accuracy_ending_of({"": epochs}, run.config.choose_by)))
    kinds = [
        (loss_name(ending).capitalize(), ending, "nats per image"),
        *((accuracy_name(each), each, "%") for each in accuracies),
    ]
    charts = [
        line_chart(title, lines, x_label="epoch", y_label=unit, ring=ring if key == ending else None)
        for title, key, unit in kinds
        if (lines := _lines(run, key))
    ]
    if crossing is not None:
        sentence = f"From epoch {crossing} on (ring), the {loss_name(ending)} is lower on train than on {held_out}."
    elif held_out is not None:
        sentence = f"The {loss_name(ending)} is not lower on train than on {held_out}."
    else:
        sentence = "The run has no validation images, and its test images were evaluated only at the end."
    return CurvesPart(charts=charts, sentence=sentence, table=epochs_table(epochs))


def _lines(run: InspectedRun, key: str) -> list[Line]:
    """One line for each split that has the figure."""
    lines = []
    for colour, split in enumerate(("train", "val", "test"), start=1):
        found = (record.get(f"{split}_{key}") for record in run.epochs)
        values = [value if isinstance(value, (int, float)) else None for value in found]
        if any(value is not None for value in values):
            x = [record["epoch"] for record in run.epochs]
            lines.append(Line(name=split, colour=colour, x=x, y=values, dashed=split == "train"))
    return lines


def rate_part(run: InspectedRun) -> RatePart:
    """The schedule of the learning rate as planned. Raises: NoDataError if no epoch is finished."""
    first, config = run.need_epochs()[0], run.config
    steps = first.get("step")
    if not isinstance(steps, int) or steps < 1:
        raise NoDataError("The run does not say how many steps an epoch has.")
    schedule = schedule_of(config, steps)
    shown = np.unique(np.linspace(0, schedule.total_steps - 1, _POINTS).round()).astype(int).tolist()
    rates = [config.lr * lr_factor(step, schedule) for step in shown]
    line = Line(name="learning rate", colour=1, x=[(step + 1) / steps for step in shown], y=rates, dots=False)
    sentence = f"{counted(steps, 'step')} per epoch; peak {config.lr:g}"
    if config.optimizer == "muon":
        sentence += f" for AdamW and {config.muon_lr:g} for Muon, whose learning rate has the same shape"
    sentence += f"; warm-up of {counted(schedule.warmup_steps, 'step')}."
    return RatePart(
        chart=line_chart("As planned", [line], x_label="epoch", y_label="learning rate", from_zero=True), sentence=sentence
    )


def confusion_part(run: InspectedRun, picture_uri: Callable[[], str]) -> ConfusionPart:
    """picture_uri: makes the picture that stands for a matrix of very many classes.

    Raises: NoDataError if there are no predictions.
    """
    predictions = run.need_predictions()
    names = [safe_text(name) for name in predictions.class_names]
    counts = matrix_of(predictions)
    square = counts[:, :-1]
    totals = counts.sum(axis=1).tolist()
    wrong = square.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    cells = [divmod(int(place), len(names)) for place in order]
    pairs = [(names[row], names[column], int(wrong[row, column]), totals[row]) for row, column in cells if wrong[row, column]]
    drawn = len(names) <= _MOST_DRAWN
    lost = int(counts[:, -1].sum())
    return ConfusionPart(
        matrix=matrix_chart(square, names) if drawn else None,
        uri=None if drawn else picture_uri(),
        pairs=confused_table(pairs),
        without_class=f"{counted(lost, 'image')} without a prediction, whose logits are not finite, not shown." if lost else "",
    )


def matrix_of(predictions: Predictions) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """See `confusion_matrix`."""
    found = predicted_classes(torch.from_numpy(predictions.logits))
    return confusion_matrix(torch.from_numpy(predictions.labels), found, len(predictions.class_names))


def reliability_part(run: InspectedRun) -> ReliabilityPart:
    """With the temperature of the weights, and if there is one also without. Raises: NoDataError without predictions."""
    predictions, temperature = run.need_predictions(), run.info.temperature
    bins = _bins_of(predictions, temperature)
    number = sum(each.num_images for each in bins)
    shares = [(each.low, each.high, each.num_images / number, _bin_text(each)) for each in bins]
    kinds = {"Accuracy by confidence": bins}
    told = "The probabilities are the softmax of the logits: there is no temperature, which is fitted on validation images."
    if temperature is not None:
        kinds = {"Accuracy by confidence, with the temperature": bins, "Without it": _bins_of(predictions, None)}
        told = f"The temperature of the weights, by which the logits are divided, is {temperature:.4g}."
    return ReliabilityPart(
        charts=[
            *(_reliability_chart(title, each) for title, each in kinds.items()),
            bar_chart("Fraction of the images by confidence", shares, x_label="confidence", y_label="fraction of images"),
        ],
        sentence=f"If a bar ends below the diagonal, the model is surer than it is right. {told}",
        table=reliability_table(bins),
    )


def _bins_of(predictions: Predictions, temperature: float | None) -> Sequence[ReliabilityBin]:
    """The bins with images. Raises: NoDataError if there are none."""
    logits, labels = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)
    bins = [each for each in reliability(logits, labels, temperature=temperature) if each.num_images]
    if not bins:
        raise NoDataError("No prediction of the run is finite.")
    return bins


def _reliability_chart(title: str, bins: Sequence[ReliabilityBin]) -> Chart:
    bars = [(each.low, each.high, each.accuracy or 0.0, _bin_text(each)) for each in bins]
    return bar_chart(title, bars, x_label="confidence", y_label="accuracy", diagonal="probabilities that fit")


def _bin_text(found: ReliabilityBin) -> str:
    return (
        f"confidence {found.low:.2f} to {found.high:.2f}: {counted(found.num_images, 'image')}, mean confidence "
        f"{found.mean_confidence:.3f}, accuracy {found.accuracy:.3f}"
    )


def check_part(config: DataConfig, *, progress: Callable[[str, int, int], None], notify: Callable[[str], None]) -> CheckPart:
    """What `cctkit check` finds in the images now. Raises: NoDataError if they cannot be checked."""
    if config.stream:
        raise NoDataError("A streamed folder is not checked here; cctkit check with the folder's name packs and checks it.")
    try:
        found = check_dataset(config, progress=progress, notify=notify)
    except ResourceError:
        raise
    except UserError as error:
        raise NoDataError(f"The images cannot be checked: {error.what}.") from error
    listed = ", ".join(by_severity(found.findings)) or "nothing"
    return CheckPart(
        sentence=f"Found in the images as they are now: {listed}.",
        summary=found.report.summary(),
        findings=[_finding(each) for each in found.findings],
    )


def _finding(found: CheckFinding) -> FindingPart:
    shown = found.shown()
    return FindingPart(
        severity=found.severity,
        text=found.text,
        shown=shown,
        more=len(found.groups or found.paths) - len(shown),
        remedy=found.remedy,
    )
