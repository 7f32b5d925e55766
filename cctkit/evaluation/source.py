"""Evaluates a run, a weights file or an ONNX file, on the images that it was made for or on others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cctkit.config.settings import DataConfig
from cctkit.data.overlap import copy_figures, read_seen
from cctkit.data.splits import Dataset, Split
from cctkit.errors import UserError
from cctkit.evaluation.class_metrics import confusion_matrix
from cctkit.evaluation.coverage import coverage_figures
from cctkit.evaluation.evaluate import Evaluation, count_parameters, evaluate_split, result_of
from cctkit.evaluation.images import class_order, default_split, leave_out_seen, listed, load_images, split_named
from cctkit.evaluation.load import load_trained
from cctkit.evaluation.trained import TrainedSource, find_trained
from cctkit.models.build import build_without_data
from cctkit.models.weights import WeightsInfo
from cctkit.plots import check_picture, draw_confusion
from cctkit.runs.class_tables import write_class_table, write_confusion_table
from cctkit.runs.predictions import Predictions, check_new, write_csv, write_predictions
from cctkit.text import safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """The options of an evaluation.

    split: None: the test images, or all images of a folder without a test part that the model was not trained with.
    precision: None: as the run was trained.
    save_predictions: the file to write image ids, labels and logits to.
    csv: the file to write the metrics of each class to.
    confusion: the files to write the confusion matrix to: pictures, or CSV if they end in .csv.
    include_seen: on another data set, keep the images that the run was trained on.
    min_confidence: also report the images whose class has at least this probability, see `coverage_figures`.
    """

    data: DataConfig
    split: str | None = None
    device: str = "auto"
    precision: str | None = None
    threads: int | None = None
    save_predictions: Path | None = None
    csv: Path | None = None
    confusion: tuple[Path, ...] = ()
    include_seen: bool = False
    min_confidence: float | None = None


def evaluate_source(
    source: str | Path | None, config: EvalConfig, *, notify: Callable[[str], None], progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Evaluate a run (None: the newest), a weights file or an ONNX file; a finished run keeps its predictions.

    Raises: UserError.
    """
    check_outputs(config)
    found = find_trained(source, notify=notify)
    loaded = load_trained(found.weights, threads=config.threads)
    info = loaded.info
    if loaded.notice:
        notify(loaded.notice)
    policy = found.choose_policy(device=config.device, precision=config.precision, threads=config.threads)
    dataset = load_images(info, config.data, found.data, notify=notify, progress=progress)
    if dataset.unverified:
        notify(dataset.unverified)
    name = config.split or default_split(dataset, info, notify)
    split = split_named(dataset, name)
    order = class_order(dataset, info.class_names, config.data.dataset)
    is_own = dataset.fingerprint == info.dataset["fingerprint"]
    split, figures = _unseen(split, config, found, dataset, notify, is_own=is_own)
    missing = [each for each in info.class_names if each not in dataset.class_names]
    if missing:
        notify(f"not in the images, and left out: {listed(missing)}; an image that is taken for one of them counts as wrong")
    evaluation = evaluate_split(
        policy.prepare(loaded.model),
        split,
        preprocess=loaded.preprocess,
        policy=policy,
        labels=order[split.labels],
        on_batch=lambda done, total: progress(f"evaluating on {name}", done, total),
        workers=dataset.workers(None),
    )
    if predictions := _predictions_path(config, found):
        _save(predictions, evaluation, split, dataset, info, name)
    if is_own and name in ("val", "all") and info.temperature is not None:
        notify("the temperature was fitted on the validation images: figures with it are too good on them")
    if is_own and split in (dataset.test, dataset.val):
        figures = copy_figures(split, dataset.train, evaluation.is_correct)
    result = figures | result_of(
        evaluation,
        model=info.model.name,
        dataset=dataset.name,
        split=name,
        params=count_parameters(build_without_data(info.model)),
        class_names=info.class_names,
        temperature=info.temperature,
    )
    if config.min_confidence is not None:
        result["confident"] = coverage_figures(
            evaluation.logits, evaluation.labels, min_confidence=config.min_confidence, temperature=info.temperature
        )
    _write_class_files(config, evaluation, result, info.class_names)
    trained = dict.fromkeys(("epoch", "planned_epochs", "chosen_by")) if info.trained is None else asdict(info.trained)
    return result | {"missing_classes": missing, **trained, "finished": found.is_finished}


def check_outputs(config: EvalConfig) -> None:
    """Check the options of an evaluation and that its files can be written, before any work is done.

    Raises: UserError.
    """
    if config.min_confidence is not None and not 0 <= config.min_confidence <= 1:
        raise UserError(f"min_confidence is {config.min_confidence}, expected 0 to 1", "--min-confidence")
    named = [("--save-predictions", config.save_predictions), ("--csv", config.csv)]
    outputs = [(flag, path) for flag, path in (*named, *(("--confusion", path) for path in config.confusion)) if path]
    for i, (flag, path) in enumerate(outputs):
        if path.absolute() in (other.absolute() for _, other in outputs[:i]):
            raise UserError(f"{safe_text(path)} is named twice", flag, "choose another file")
        if flag == "--confusion" and path.suffix.lower() != ".csv":
            check_picture(path)
        check_new(path, flag)


def _write_class_files(
    config: EvalConfig, evaluation: Evaluation, result: Mapping[str, Any], class_names: Sequence[str]
) -> None:
    """Write the files with the metrics of each class and the confusion matrix that the user asked for."""
    if config.csv is not None:
        write_class_table(config.csv, result["per_class"])
    if not config.confusion:
        return
    matrix = confusion_matrix(evaluation.labels, evaluation.found, len(class_names))
    title = f"{result['model']} on {result['dataset']}, {result['split']}: {result['num_images']:,} images"
    for path in config.confusion:
        if path.suffix.lower() == ".csv":
            write_confusion_table(path, matrix, class_names)
        else:
            draw_confusion(matrix, class_names, path, title=title)


def _predictions_path(config: EvalConfig, found: TrainedSource) -> Path | None:
    """Where the predictions are written: as asked, else into a finished run if its own test images are evaluated."""
    if found.is_finished and config.data.dataset is None and config.split in (None, "test"):
        return config.save_predictions or found.predictions
    return config.save_predictions


def _unseen(
    split: Split,
    config: EvalConfig,
    found: TrainedSource,
    dataset: Dataset,
    notify: Callable[[str], None],
    *,
    is_own: bool,
) -> tuple[Split, dict[str, Any]]:
    """On another data set than the model's own: without the images that it was trained on."""
    if not is_own:
        name = config.data.dataset or dataset.name
        seen = None if found.seen is None else read_seen(found.seen)
        return leave_out_seen(split, seen, include_seen=config.include_seen, name=name, notify=notify)
    if config.include_seen:
        raise UserError("these are the images that the run itself was made with", "--include-seen", "leave it out")
    return split, {}


def _save(path: Path, evaluation: Evaluation, split: Split, dataset: Dataset, info: WeightsInfo, name: str) -> None:
    write = write_csv if path.suffix.lower() == ".csv" else write_predictions
    predictions = Predictions(
        ids=split.ids(),
        labels=evaluation.labels.numpy(),
        logits=evaluation.logits.numpy(),
        class_names=info.class_names,
        split=name,
        fingerprint=dataset.fingerprint,
        split_fingerprint=split.fingerprint(),
    )
    write(path, predictions)
