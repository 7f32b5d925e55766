"""Writes a finished run as a folder in the layout of the Hugging Face Hub. Nothing is sent anywhere."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cctkit import __version__
from cctkit.errors import UserError
from cctkit.evaluation.trained import find_trained
from cctkit.files import full_disk_named, sync_directory, write_synced
from cctkit.hub.card import Finished, card_text
from cctkit.models.onnx_file import read_onnx
from cctkit.models.weights import WeightsInfo, read_weights
from cctkit.runs.paths import HUB_WEIGHTS, RunPaths
from cctkit.runs.runfiles import Shape, read_metrics, read_object
from cctkit.text import json_text, safe_text

_RESULT: Mapping[str, Shape] = {"top1_percent": (int, float), "num_images": int, "params": dict, "worst_classes": list}


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
    epochs = read_metrics(run.metrics)
    finished = Finished(
        info=info,
        result=read_object(run.result, _RESULT),
        env=read_object(run.env, {"policy": dict, "cctkit": str}),
        train_seconds=sum(record["train_seconds"] for record in epochs) if "train_seconds" in epochs[-1] else None,
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
    """Write a folder whole or not at all: beside, then renamed."""
    with full_disk_named(output, saved=False):
        output.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
        try:
            for name, data in files.items():
                write_synced(beside / name, data)
            sync_directory(beside)
            beside.chmod(0o777 & ~_umask())
            if output.is_dir():
                output.rmdir()
            beside.rename(output)
            sync_directory(output.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _umask() -> int:
    """The process's mask of permissions, which `mkdtemp` does not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
