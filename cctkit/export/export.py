"""`cctkit export`: from a trained model to an ONNX file that was compared with it."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cctkit.config.settings import DataConfig
from cctkit.engine.device import choose_policy
from cctkit.errors import DamagedError, UserError
from cctkit.evaluation.load import LoadedModel, is_onnx, load_trained
from cctkit.evaluation.trained import TrainedSource, find_trained
from cctkit.export.contract import contract_of
from cctkit.export.graph import OPSET, onnx_graph, serialized
from cctkit.export.verify import ComparedImages, Notify, Progress, find_images, verify
from cctkit.files import write_atomic
from cctkit.models.onnx_file import (
    CLASSES_KEY,
    CONTRACT_KEY,
    VERIFICATION_KEY,
    WEIGHTS_KEY,
    OnnxModel,
    open_session,
    sealed_onnx,
)
from cctkit.models.weights import HEADER_KEY, header_of
from cctkit.text import json_text, safe_text

EXPORT_SCHEMA = 1
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """The options of an export.

    data: the images to compare on; by default the test images of the run.
    verify: False: write the file without comparing it.
    """

    data: DataConfig
    verify: bool = True
    threads: int | None = None


def check_installed() -> None:
    """Check that the packages of the extra `onnx` are there.

    Raises: UserError.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"not installed: {', '.join(missing)}", "cctkit export", f"pip install {' '.join(_PACKAGES)}")


def check_output(path: Path) -> None:
    """Check that the file can be written, before any work.

    Raises: UserError.
    """
    if path.suffix.lower() != ".onnx":
        raise UserError("the name of the output has to end in .onnx", safe_text(path), f"--output {safe_text(path)}.onnx")
    if path.exists() or path.is_symlink():
        raise UserError("the output exists, and nothing is overwritten", safe_text(path), "choose another --output")
    if not path.parent.is_dir():
        raise UserError(f"there is no directory {safe_text(path.parent)}", safe_text(path), "create it, or choose another")


def export_onnx(
    source: str | Path | None, output: Path, config: ExportConfig, *, notify: Notify, progress: Progress
) -> dict[str, Any]:
    """Export a run (None: the newest) or a weights file; return what `cctkit export --json` prints.

    The file gets its name once it agrees with torch on all of the images.

    Raises: UserError if it does not agree, if there are no images to compare on, or if `output` exists.
    """
    check_installed()
    check_output(output)
    found = find_trained(source, notify=notify)
    if is_onnx(found.weights):
        raise UserError("this is an ONNX file already", safe_text(found.weights), "name a run or a weights file")
    loaded = load_trained(found.weights)
    if loaded.notice:
        notify(loaded.notice)
    images = _images(loaded, config, found, notify, progress) if config.verify else None
    policy = choose_policy(device="cpu", precision="float32", threads=config.threads)
    progress(f"exporting {safe_text(loaded.info.model.name)}", 0, 1)
    proto = onnx_graph(loaded)
    metadata = _metadata(loaded)
    verification: dict[str, Any] = {"verified": False}
    speeds: dict[str, float | None] = {"images_per_s": None, "torch_images_per_s": None}
    if images is not None:
        exported = OnnxModel(open_session(serialized(proto, metadata), output, threads=config.threads))
        checked, of_torch, of_onnx = verify(loaded, exported, images, policy=policy, progress=progress)
        verification = checked.as_json()
        speeds = {"images_per_s": of_onnx.images_per_s, "torch_images_per_s": of_torch.images_per_s}
    data = sealed_onnx(serialized(proto, metadata | {VERIFICATION_KEY: json_text(verification, sort_keys=True)}))
    progress("writing", 0, 1)  # the last moment to stop
    check_output(output)
    write_atomic(output, data)
    return {
        "schema_version": EXPORT_SCHEMA,
        "file": str(output),
        "bytes": len(data),
        "model": loaded.info.model.name,
        "weights_digest": loaded.info.digest,
        "opset": OPSET,
        "preprocessing": contract_of(loaded.preprocess, temperature=loaded.info.temperature),
        "verification": verification,
        **speeds,
    }


def _images(
    loaded: LoadedModel, config: ExportConfig, found: TrainedSource, notify: Notify, progress: Progress
) -> ComparedImages:
    try:
        return find_images(loaded, config.data, found, notify=notify, progress=progress)
    except DamagedError:
        raise
    except UserError as error:
        if error.exit_code != UserError.exit_code:
            raise
        where = f" ({error.where})" if error.where not in (None, "eval") else ""
        raise UserError(
            f"no images to compare the exported model on: {error.what}{where}",
            "cctkit export",
            "name them with --dataset FOLDER, or export without comparing: --no-verify",
        ) from error


def _metadata(loaded: LoadedModel) -> dict[str, str]:
    """The header of the weights file, so that the ONNX file is evaluated as the weights are, and what other programs need."""
    info = loaded.info
    return {
        HEADER_KEY: json.dumps({**header_of(info), "digest": info.digest}, sort_keys=True),
        CLASSES_KEY: json.dumps(list(info.class_names)),
        CONTRACT_KEY: json.dumps(contract_of(loaded.preprocess, temperature=loaded.info.temperature), sort_keys=True),
        WEIGHTS_KEY: info.digest or "",
    }
