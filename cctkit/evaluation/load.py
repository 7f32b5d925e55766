"""Loads a trained model from its weights file or ONNX file."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cctkit.data.preprocess import Preprocess
from cctkit.digests import not_verified
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.models.weights import WeightsInfo, check_tensors, read_weights
from cctkit.text import safe_text


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A trained model and what it needs to classify an image.

    model: takes what `preprocess.to_input` returns, gives logits (B, K); in evaluation mode.
    notice: what to tell the user about the file, if anything.
    """

    model: nn.Module
    info: WeightsInfo
    preprocess: Preprocess
    notice: str | None = None


def load(path: str | Path) -> tuple[nn.Module, WeightsInfo]:
    """Load the model of a weights file or a run directory, in evaluation mode, and the header of the file.

    Raises: UserError if the file was not written by cctkit, or its tensors do not fit its model.
    """
    if is_onnx(Path(path)):
        raise UserError("an ONNX file has no torch model", safe_text(path), "load the run or weights file it was exported from")
    tensors, info = read_weights(Path(path))
    check_tensors(tensors, info, Path(path))
    model = build_model(info.model, seed=0)
    model.load_state_dict(tensors)
    return model.eval(), info


def load_trained(path: Path, *, threads: int | None = None) -> LoadedModel:
    """Load the model of a weights file, a run directory, or an ONNX file of `cctkit export`.

    threads: of onnxruntime; None: as many as torch uses.

    Raises: UserError, as `load`; if onnxruntime is missing.
    """
    if is_onnx(path):
        from cctkit.models.onnx_file import read_onnx

        found = read_onnx(path, threads=threads)
        preprocess = preprocess_of(found.info, in_model=True)
        return LoadedModel(model=found.model, info=found.info, preprocess=preprocess, notice=found.notice)
    model, info = load(path)
    notice = not_verified(path) if info.digest is None else None
    return LoadedModel(model=model, info=info, preprocess=preprocess_of(info), notice=notice)


def preprocess_of(info: WeightsInfo, *, in_model: bool = False) -> Preprocess:
    """The steps from an image file to the input of the model.

    in_model: whether the model itself normalizes and upsamples, as an ONNX file does.
    """
    return Preprocess(
        stored_size=info.stored_size,
        resize_mode=info.resize_mode,
        mean=info.mean,
        std=info.std,
        image_size=info.model.image_size,
        in_model=in_model,
    )


def is_onnx(path: Path) -> bool:
    """Whether `path` names an ONNX file."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()
