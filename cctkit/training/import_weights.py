"""`cctkit import`: weights of another program as a weights file of cctkit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cctkit.catalog.classes import CLASS_NAMES
from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.models import named_config
from cctkit.catalog.pretrained import IMAGENET_MEAN, IMAGENET_STD, Channels
from cctkit.config.model import ModelConfig, Positional
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.models.convert import HEAD, POSITIONS, Conversion, convert, is_sine, layout_of
from cctkit.models.foreign import read_foreign
from cctkit.models.timm_config import TimmConfig, read_timm_config
from cctkit.models.weights import WeightsInfo
from cctkit.text import safe_text
from cctkit.training.initial_weights import assumption, interpolation, is_ours


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Imported:
    """Arguments of `save_weights`, and notes for the user."""

    tensors: Mapping[str, Tensor]
    info: WeightsInfo
    notes: tuple[str, ...]


def import_foreign(
    path: Path,
    *,
    model: str,
    classes: Sequence[str] | str | None = None,
    image_size: Any = None,
    mean: Channels | None = None,
    std: Channels | None = None,
) -> Imported:
    """Convert the weights in `path` to the model named `model`.

    Classes, normalisation and image size that are not given follow from the model's name (`cct_7_3x1_32_c100`).

    classes: names in the order of the head's outputs, or `cifar10` or `cifar100`.
    mean, std: per channel, of pixels in [0, 1].

    Raises: UserError if the file is not of this model, or something is neither given nor known.
    """
    where = safe_text(path)
    if is_ours(path):
        raise UserError("this already is a weights file of cctkit", where, f"use it directly: cctkit eval {where}")
    state = read_foreign(path)
    layout = layout_of(state, where=where)
    head = state.get(f"{HEAD[layout]}.weight")
    if head is None:
        raise UserError("the file has no classification head", where, "fine-tune it: cctkit train --init FILE")
    named = named_config(model, image_size=image_size)
    config = named_config(
        model,
        num_classes=head.shape[0],
        image_size=image_size,
        positional_embedding=_position_kind(state.get(POSITIONS[layout])),
    )
    known = _known_dataset(model, classes)
    names = _class_names(known, classes, config, path)
    conversion = convert(state, config=config, expected=build_model(config, seed=0).state_dict(), where=where)
    beside = read_timm_config(path, config) if layout == "timm" else TimmConfig(pixels=None, assumed=())
    mean, std = _normalisation(known, config, mean, std, beside)
    dataset = {"name": known or path.name, "named": known is not None, "split_seed": 0, "val_fraction": 0.0}
    dataset |= {"fingerprint": DATASETS[known].fingerprint if known else None}
    info = WeightsInfo(
        model=config, class_names=names, mean=mean, std=std, resize_mode="crop", dataset=dataset, recipe=None, metrics={}
    )
    return Imported(tensors=conversion.tensors, info=info, notes=tuple(_notes(named, config, conversion, beside)))


def _position_kind(positions: Tensor | None) -> Positional:
    """The kind of positional embedding in the file, which can differ from what its name says."""
    if positions is None:
        return "none"
    return "sine" if positions.ndim == 3 and is_sine(positions) else "learnable"


def _known_dataset(model: str, classes: Sequence[str] | str | None) -> str | None:
    """The named data set of the weights: as given, else from the suffix of a published name."""
    if classes is not None:
        return classes if isinstance(classes, str) else None
    return {"c10": "cifar10", "c100": "cifar100"}.get(model.rpartition("_")[2])


def _class_names(known: str | None, classes: Sequence[str] | str | None, config: ModelConfig, path: Path) -> tuple[str, ...]:
    if known is not None and known not in CLASS_NAMES:
        raise UserError(f"unknown data set '{safe_text(known)}'", "--classes", f"known: {', '.join(CLASS_NAMES)}")
    names = CLASS_NAMES[known] if known else tuple(classes or ())
    if len(names) != config.num_classes or len(set(names)) != len(names):
        got = f"{len(set(names))} different names are given" if names else "no names are given"
        raise UserError(
            f"the head has {config.num_classes} classes, but {got}",
            safe_text(path),
            "--classes cifar10, cifar100, or a file with one class name per line, in the order of the outputs",
        )
    return names


def _normalisation(
    known: str | None, config: ModelConfig, mean: Channels | None, std: Channels | None, beside: TimmConfig
) -> tuple[Channels, Channels]:
    """As given, else from the `config.json` beside the file, else the data set's, else ImageNet's for images of 224 or more."""
    if mean is not None and std is not None:
        return mean, std
    if beside.pixels is not None:
        return beside.pixels
    row = DATASETS[known] if known else None
    if row is not None and row.mean is not None and row.std is not None:
        return row.mean, row.std
    if min(config.image_size) >= 224:
        return IMAGENET_MEAN, IMAGENET_STD
    raise UserError("the mean and std of the training images are not known", "import", "give --mean R,G,B and --std R,G,B")


def _notes(named: ModelConfig, config: ModelConfig, conversion: Conversion, beside: TimmConfig) -> list[str]:
    """Notes on what a user may not expect."""
    notes = []
    if named.positional_embedding != config.positional_embedding:
        notes.append(
            f"the positional embedding is {config.positional_embedding}, not {named.positional_embedding} as the name says"
            + (": the published `_sine` models were built with learnable ones" if named.positional_embedding == "sine" else "")
        )
    notes += map(interpolation, conversion.resized)
    if beside.assumed:
        notes.append(assumption(beside.assumed))
    if conversion.left:
        notes.append(f"not used from the file: {', '.join(map(safe_text, conversion.left))}")
    return notes
