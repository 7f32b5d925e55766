"""The weights file: safetensors with a header that has everything needed to use the model."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cctkit.config.model import ModelConfig
from cctkit.config.size import Size
from cctkit.digests import check_digest, sealed
from cctkit.errors import UserError
from cctkit.files import write_atomic
from cctkit.models.build import build_without_data
from cctkit.runs.paths import shipped_names, weights_file
from cctkit.runs.runfiles import NUMBER, fault, in_utf8
from cctkit.text import did_you_mean, safe_text

WEIGHTS_SCHEMA = 1
HEADER_KEY = "cctkit"
TEMPERATURE = "temperature"
"""The key of `WeightsInfo.temperature` in `WeightsInfo.metrics`."""
_WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile and DDP


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsampling:
    """Images are resized to `stored_size` and, on the device, upsampled to the model's size by torch's `interpolate`."""

    stored_size: Size
    mode: Literal["bilinear"] = "bilinear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The epoch of a run that the weights are from.

    planned_epochs: epochs of the whole run.
    chosen_by: whether it is the best epoch by validation, or the last one so far.
    """

    epoch: int
    planned_epochs: int
    chosen_by: Literal["validation", "last epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """The header of a weights file.

    mean, std: per channel, of pixel values in 0 to 1.
    dataset: name, named, fingerprint, split_seed, val_fraction, split_rule (see `stratified_split`; missing means rule 1).
    metrics: empty until the run is finished, but for `temperature`; it is one of them because earlier versions refuse a header
        with a key that they do not know.
    upsampling: None if the images were stored at the model's size.
    trained: None for older files and those of other programs.
    digest: SHA-256 of header and tensors of a file that was read; None for files of earlier versions, which have none.
    """

    model: ModelConfig
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: Literal["crop", "squash"]
    dataset: Mapping[str, Any]
    recipe: str | None
    metrics: Mapping[str, float | None]
    upsampling: Upsampling | None = None
    trained: Trained | None = None
    digest: str | None = field(default=None, compare=False)

    @property
    def stored_size(self) -> Size:
        """(height, width) to which image files are resized; see `Upsampling`."""
        return self.upsampling.stored_size if self.upsampling else self.model.image_size

    @property
    def temperature(self) -> float | None:
        """The probabilities are the softmax of the logits divided by this; None: of the logits themselves."""
        return self.metrics.get(TEMPERATURE)


def save_weights(path: Path, *, tensors: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Write the weights and `info` atomically. Equal runs give equal bytes: the header is sorted JSON under one key, because
    safetensors orders several keys at random."""
    plain = {plain_name(name): tensor for name, tensor in stored(tensors).items()}
    header = sealed(header_of(info), save(plain))
    write_atomic(path, save(plain, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)}))


def header_of(info: WeightsInfo) -> dict[str, Any]:
    """The header's values in plain types, without the digest."""
    values = asdict(info)
    del values["digest"]
    for optional in ("upsampling", "trained"):
        if values[optional] is None:
            del values[optional]
    return {"schema_version": WEIGHTS_SCHEMA, **values}


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies as safetensors stores them: on the CPU, contiguous, tied tensors each on their own."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def plain_name(name: str) -> str:
    """A tensor's name without the prefixes of torch.compile and DDP."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The tensors, on the CPU, and the header of a weights file or of that in the run directory `path`.

    Raises: UserError if the file is missing, damaged, of another program, or of a newer version.
    """
    path = weights_file(path)
    info = read_info(path)
    try:
        check_digest(path, HEADER_KEY)
        with in_utf8(path) as readable, safe_open(readable, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"the weights file is damaged: {safe_text(error)}",
            safe_text(path),
            "restore it, or write that of a run again: cctkit train --resume RUN",
        ) from error
    if read_info(path).digest != info.digest:  # a running training has replaced it since
        return read_weights(path)
    return tensors, info


def read_info(path: Path) -> WeightsInfo:
    """The header alone, not verified by its digest.

    Raises: UserError as `read_weights`.
    """
    path = weights_file(path)
    if not path.is_file():
        remedy = did_you_mean(str(path), shipped_names(), "expected a weights file, a run directory or a name")
        raise UserError("there is no such weights file", safe_text(path), remedy)
    try:
        with in_utf8(path) as readable, safe_open(readable, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"not a safetensors file, or damaged: {safe_text(error)}", safe_text(path)) from error
    if HEADER_KEY not in metadata:
        raise UserError(
            "this safetensors file is not from cctkit: its header does not describe the model",
            safe_text(path),
            "pass the weights.safetensors of a run",
        )
    return parse_header(metadata[HEADER_KEY], path)


def parse_header(text: str, path: Path) -> WeightsInfo:
    """The header of the file `path` from its JSON.

    Raises: UserError if it is malformed.
    """
    try:
        return _parse(json.loads(text))
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"the header of the weights file is malformed: {safe_text(error)}", safe_text(path)) from error


def check_tensors(tensors: Mapping[str, Tensor], info: WeightsInfo, path: Path) -> None:
    """Check that the tensors are those of the header's model. It is not built, as a false header could claim any size.

    Raises: UserError with the first tensor that is missing, unexpected or of another shape.
    """
    name, wrong = safe_text(info.model.name), "the number of tensors"
    blocks = (info.model.num_layers + info.model.num_conv_blocks) * info.model.repeats
    if blocks + info.model.num_convs < len(tensors):
        try:
            expected = build_without_data(info.model).state_dict()
        except (RuntimeError, TypeError, OverflowError) as error:  # sizes too large for torch
            raise UserError(f"the header's model {name} cannot be built: {safe_text(error)}", safe_text(path)) from error
        shapes = {key: tensor.shape for key, tensor in expected.items()}
        differ = sorted(shapes.keys() ^ tensors.keys()) or [key for key in shapes if shapes[key] != tensors[key].shape]
        if not differ:
            return
        wrong = safe_text(differ[0])
    raise UserError(f"the weights are not those of {name}: {wrong} differs", safe_text(path))


def _parse(header: dict[str, Any]) -> WeightsInfo:
    version = header.pop("schema_version")
    if version > WEIGHTS_SCHEMA:
        raise ValueError(f"it has version {version}, expected at most {WEIGHTS_SCHEMA}")
    info = WeightsInfo(
        **header
        | {
            "model": ModelConfig(**header["model"]),
            "class_names": tuple(map(str, header["class_names"])),
            "mean": _channels(header["mean"]),
            "std": _channels(header["std"]),
            "upsampling": _upsampling(header.get("upsampling"), header["model"]["image_size"]),
            "trained": _trained(header.get("trained")),
        }
    )
    if len(info.class_names) != info.model.num_classes:
        raise ValueError(f"{len(info.class_names)} class names for {info.model.num_classes} classes")
    missing = {"name", "named", "fingerprint", "split_seed", "val_fraction"} - info.dataset.keys()
    if missing:
        raise ValueError(f"the entry dataset lacks {', '.join(sorted(missing))}")
    _check_metrics(header["metrics"])
    return info


def _check_metrics(values: Any) -> None:
    if problem := fault(values, {}, "metrics"):
        raise ValueError(problem)
    if TEMPERATURE not in values:
        return
    if problem := fault(values, {TEMPERATURE: NUMBER}):
        raise ValueError(problem)
    if not 0 < values[TEMPERATURE] < math.inf:
        raise ValueError(f"{TEMPERATURE} is {values[TEMPERATURE]}, expected a positive number")


def _upsampling(values: Any, size: Sequence[int]) -> Upsampling | None:
    if values is None:
        return None
    height, width = map(int, values["stored_size"])
    if values["mode"] != "bilinear" or not 0 < height <= size[0] or not 0 < width <= size[1]:
        raise ValueError(f"images cannot be upsampled from {height}x{width} by {values['mode']}")
    return Upsampling(stored_size=(height, width))


def _trained(values: Any) -> Trained | None:
    if values is None:
        return None
    trained = Trained(**values)
    if problem := fault(values, {"epoch": int, "planned_epochs": int, "chosen_by": ("validation", "last epoch")}):
        raise ValueError(problem)
    return trained


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
