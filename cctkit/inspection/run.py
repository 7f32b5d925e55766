"""Reads what a run directory holds, whether the run is finished or not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cctkit.config.settings import TrainConfig
from cctkit.engine.environment import read_environment
from cctkit.evaluation.load import LoadedModel, load_trained
from cctkit.models.weights import WeightsInfo
from cctkit.runs.paths import RunPaths, check_run
from cctkit.runs.predictions import Predictions, read_predictions
from cctkit.runs.runfiles import NUMBER, Shape, fault, malformed, read_metrics, read_object, read_settings

T = TypeVar("T")
_RESULT: Mapping[str, Shape] = {
    "model": str,
    "dataset": str,
    "num_images": int,
    "top1_percent": NUMBER,
    "top1_interval_percent": [NUMBER, NUMBER],
    "top5_percent": (NUMBER, None),
    "loss": (NUMBER, None),
    "ece": (NUMBER, None),
    "params": {"total": int, "without_embeddings": int},
}
_OPTIONAL: Mapping[str, Shape] = {
    "balanced_accuracy_interval_percent": (None, [NUMBER, NUMBER]),
    "macro_f1_interval_percent": (None, [NUMBER, NUMBER]),
    "copies_in_train": (int, None),
    "per_class": list,
}
"""What versions before it did not write."""
_CLASS: Mapping[str, Shape] = {
    "class": str,
    "num_images": int,
    "num_predicted": int,
    "precision_percent": (NUMBER, None),
    "recall_percent": (NUMBER, None),
    "f1_percent": (NUMBER, None),
}


class NoDataError(Exception):
    """A part of the page has nothing to show; the message is the sentence that says why."""


@dataclass(frozen=True, slots=True)
class Missing:
    """The sentence that stands on the page in place of a part."""

    sentence: str


def part(make: Callable[[], T]) -> T | Missing:
    """What `make` returns, or why there is nothing."""
    try:
        return make()
    except NoDataError as reason:
        return Missing(str(reason))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InspectedRun:
    """The files of a run.

    origins: where each setting came from.
    env: `env.json`.
    epochs: the lines of `metrics.jsonl`.
    result: `result.json`; None if the run is not finished.
    predictions: on the test images; None if there are none.
    trained: None before the end of the first epoch.
    """

    paths: RunPaths
    config: TrainConfig
    recipe: str | None
    origins: Mapping[str, Any]
    env: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    predictions: Predictions | None
    trained: LoadedModel | None

    @property
    def info(self) -> WeightsInfo:
        """The header of the weights. Raises: NoDataError if there are none."""
        return self.need_trained().info

    def need_trained(self) -> LoadedModel:
        """The trained model. Raises: NoDataError if there is none."""
        if self.trained is None:
            raise NoDataError("There are no weights yet: the first epoch of the run is not finished.")
        return self.trained

    def need_epochs(self) -> Sequence[Mapping[str, Any]]:
        """The epochs. Raises: NoDataError if there are none."""
        if not self.epochs:
            raise NoDataError("No epoch of the run is finished yet.")
        return self.epochs

    def need_result(self) -> Mapping[str, Any]:
        """`result.json`. Raises: NoDataError if the run is not finished."""
        if self.result is None:
            raise NoDataError("The run is not finished, so its test images have not been evaluated.")
        return self.result

    def need_predictions(self) -> Predictions:
        """The predictions on the test images. Raises: NoDataError if there are none."""
        self.need_result()
        if self.predictions is None:
            raise NoDataError(
                "The run has no predictions.safetensors any more; cctkit eval with the run's name writes it again."
            )
        return self.predictions


def read_run(path: Path, *, notify: Callable[[str], None]) -> InspectedRun:
    """Read the files of the run in `path`; those of a run that is not finished may be missing.

    notify: called if the weights are of an earlier version, and so not verified.

    Raises: UserError if `path` is not a run directory, or a file is malformed.
    """
    check_run(path)
    paths = RunPaths(path)
    config, recipe = read_settings(paths.config)
    origins = read_object(paths.config).get("origins")
    trained = load_trained(paths.weights) if paths.weights.is_file() else None
    if trained and trained.notice:
        notify(trained.notice)
    return InspectedRun(
        paths=paths,
        config=config,
        recipe=recipe,
        origins=origins if isinstance(origins, dict) else {},
        env=read_environment(paths.env),
        epochs=read_metrics(paths.metrics),
        result=_read_result(paths.result) if paths.result.is_file() else None,
        predictions=_read_predictions(paths.predictions, trained) if paths.predictions.is_file() else None,
        trained=trained,
    )


def _read_result(path: Path) -> Mapping[str, Any]:
    result = read_object(path, _RESULT)
    problem = fault(result, {key: shape for key, shape in _OPTIONAL.items() if key in result})
    rows = [] if problem else result.get("per_class", [])
    problem = problem or next((found for row in rows if (found := fault(row, _CLASS))), None)
    if problem:
        raise malformed(path, problem)
    return result


def _read_predictions(path: Path, trained: LoadedModel | None) -> Predictions:
    found = read_predictions(path)
    if trained is not None and tuple(found.class_names) != trained.info.class_names:
        raise malformed(path, "its classes are not those of weights.safetensors")
    return found
