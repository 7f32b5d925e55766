"""Writes a finished run as a folder in the layout of the Hugging Face Hub. Nothing is sent anywhere."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cctkit import __version__
from cctkit.errors import UserError
from cctkit.evaluation.trained import find_trained
from cctkit.files import new_folder, write_synced
from cctkit.hub.card import Finished, card_text
from cctkit.models.onnx_file import read_onnx
from cctkit.models.weights import WeightsInfo, read_weights
from cctkit.runs.paths import HUB_WEIGHTS, RunPaths
from cctkit.runs.runfiles import NUMBER, Shape, fault, malformed, read_metrics, read_object
from cctkit.text import json_text, safe_text

_OPTIONAL: Shape = (int, float, None)
_RESULT: Mapping[str, Shape] = {
    **dict.fromkeys(("dataset", "split", "chosen_by"), str),
    **dict.fromkeys(("num_images", "epoch", "planned_epochs", "seed"), int),
    **dict.fromkeys(("top5_percent", "loss", "ece"), _OPTIONAL),
    "top1_percent": NUMBER,
    "top1_interval_percent": [NUMBER, NUMBER],
    "params": {"total": int},
    "recipe": (str, None),
    "worst_classes": list,
}
_RESULT_LATER = {
    **dict.fromkeys(("copies_in_train", "copies_of_another_class"), (int, None)),
    **dict.fromkeys(("top1_percent_without_copies", "score"), _OPTIONAL),
    **dict.fromkeys(("temperature", "calibrated_loss", "calibrated_ece"), _OPTIONAL),
}
"""Missing in the results of earlier versions."""
_WORST: Mapping[str, Shape] = {"class": str, "num_images": int, "top1_percent": NUMBER}
_ENV: Mapping[str, Shape] = {"cctkit": str, "python": str, "torch": str, "policy": {"precision": str, "threads": int}}
_LARGEST = 1e30  # of any figure, so that all can be printed


def write_hub_folder(source: Path | None, output: Path, *, onnx: Path | None, notify: Callable[[str], None]) -> list[Path]:
    """Write `config.json`, `model.safetensors` and `README.md` of a finished run into the new folder `output`.

    source: the run; None: the newest.
    onnx: a file of `cctkit export`, which becomes `model.onnx`.

    Returns: the files written.

    Raises: UserError if the run is not finished, `output` is not empty, or the ONNX file is of other weights.
    """
    check_output(output)
    found = find_trained(source, notify=notify)
    run = RunPaths(found.weights.parent)
    if not run.result.is_file():
        raise UserError(
            "only a finished run has figures for a model card",
            safe_text(source or found.weights),
            f"finish it: cctkit train --resume {safe_text(run.path)}" if run.config.is_file() else "name a run",
        )
    _, info = read_weights(found.weights)
    finished = Finished(
        info=info, result=_read_result(run.result), env=_read_env(run.env), train_seconds=_train_seconds(run.metrics)
    )
    files = {
        "config.json": json_text(hub_config(info), indent=2, sort_keys=True).encode() + b"\n",
        HUB_WEIGHTS: found.weights.read_bytes(),
        "README.md": card_text(finished, name=output.name, onnx=onnx is not None).encode(),
    }
    if onnx is not None:
        files["model.onnx"] = _exported(onnx, info, notify)
    _write_folder(output, files)
    return [output / name for name in files]


def _read_result(path: Path) -> dict[str, Any]:
    """What the model card needs of a `result.json`.

    Raises: UserError.
    """
    result = {**dict.fromkeys(_RESULT_LATER), **read_object(path, _RESULT)}
    problem = fault(result, _RESULT_LATER) or next(
        (found for row in result["worst_classes"] if (found := fault(row, _WORST, "an entry of worst_classes"))), None
    )
    rows = [result, result["params"], *result["worst_classes"]] if problem is None else []
    figures = [*(result["top1_interval_percent"] or ()), *(value for row in rows for value in row.values())]
    if problem is None and not all(abs(each) < _LARGEST for each in figures if isinstance(each, (int, float))):
        problem = "a figure is out of range"
    if problem:
        raise malformed(path, problem)
    return result


def _read_env(path: Path) -> dict[str, Any]:
    """What the model card needs of an `env.json`.

    Raises: UserError.
    """
    env = {"command": None, **read_object(path, _ENV)}
    if problem := fault(env, {"command": (list, None), "policy": {"threads": int}}):
        raise malformed(path, problem)
    return env


def _train_seconds(metrics: Path) -> float | None:
    """The time of all epochs; None if it is not in every line, as in those of earlier versions.

    Raises: UserError.
    """
    seconds: list[Any] = [record.get("train_seconds") for record in read_metrics(metrics)]
    known: list[float] = [each for each in seconds if type(each) in (int, float) and 0 <= each < _LARGEST]
    return sum(known) if known and len(known) == len(seconds) else None


def check_output(output: Path) -> None:
    """Check that the folder is new or empty.

    Raises: UserError.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if os.path.lexists(output):
        raise UserError("exists already and is not an empty folder", safe_text(output), "name a new folder with --output")


def hub_config(info: WeightsInfo) -> dict[str, Any]:
    """`config.json`: the header of the weights, with the classes as the Hub's programs expect them."""
    values = dataclasses.asdict(info)
    names = values.pop("class_names")
    del values["digest"]
    return {
        "library_name": "cctkit",
        "cctkit_version": __version__,
        "architectures": [info.model.name],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        **values,
    }


def _exported(path: Path, info: WeightsInfo, notify: Callable[[str], None]) -> bytes:
    """The ONNX file, if it was exported from these weights."""
    found = read_onnx(path)
    if found.info.digest != info.digest:
        raise UserError(
            "the ONNX file is not of the weights of this run", safe_text(path), "cctkit export --model RUN writes one"
        )
    if found.notice:
        notify(found.notice)
    return path.read_bytes()


def _write_folder(output: Path, files: dict[str, bytes]) -> None:
    """Write a folder whole or not at all."""
    with new_folder(output) as beside:
        for name, data in files.items():
            write_synced(beside / name, data)
