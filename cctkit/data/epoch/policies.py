"""AutoAugment's and RandAugment's operations as tables: from a plan's draws to names and arguments, and to calls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cctkit.config.size import Size
from cctkit.data.epoch.plan import Array, EpochPlan
from cctkit.data.transfer import to_device

Interpolation = Literal["nearest", "bilinear"]

# AutoAugment's policy for CIFAR-10: (operation, probability, magnitude bin of 0 to 9), twice a sub-policy. Cubuk et al. 2019,
# table 7, as in torchvision/transforms/v2/_auto_augment.py.
CIFAR10_POLICY: tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)

# timm/data/auto_augment.py, _RAND_INCREASING_TRANSFORMS.
RAND_OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)

_RAND_PROBABILITY = 0.5
_PLAIN = frozenset({"AutoContrast", "Equalize", "Invert"})
_MOVING = frozenset({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"})
_UNSIGNED = _PLAIN | {"Posterize", "Solarize", "SolarizeAdd"}
_SOLARIZE_ADD_BELOW = 128
_FUNCTIONS = {
    "Brightness": "adjust_brightness",
    "Color": "adjust_saturation",
    "Contrast": "adjust_contrast",
    "Sharpness": "adjust_sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
    "Invert": "invert",
}
"""Of `torchvision.transforms.v2.functional`."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation; `value` is its argument: degrees, pixels, a factor, bits, a threshold or an amount."""

    name: str
    value: float = 0.0


@cache
def cifar10_operation(policy: int, slot: int, negative: bool, size: Size) -> Operation:
    """The first or second operation (slot 0, 1) of a sub-policy, its argument as torchvision's AutoAugment computes it."""
    name, _, level = CIFAR10_POLICY[policy][slot]
    height, width = size
    if name in _PLAIN:
        return Operation(name)
    if name == "Posterize":
        return Operation(name, round(8 - level / (9 / 4)))
    if name == "Solarize":
        return Operation(name, 255 * float(torch.linspace(1.0, 0.0, 10)[level]))
    top = {"TranslateX": 150 / 331 * width, "TranslateY": 150 / 331 * height, "Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3}
    magnitude = float(torch.linspace(0.0, top.get(name, 0.9), 10)[level]) * (-1 if negative else 1)
    if name in ("TranslateX", "TranslateY"):
        return Operation(name, int(magnitude))
    return Operation(name, _argument(name, magnitude))


@cache
def rand_operation(index: int, tenths: int, negative: bool, size: Size) -> Operation:
    """timm's operation at a level in tenths, 0 to 100: `LEVEL_TO_ARG` of the increasing ones (timm/data/auto_augment.py).

    At level 0 solarization inverts 255, timm's nothing.
    """
    name, share = RAND_OPERATIONS[index], tenths / 100
    height, width = size
    unsigned = {
        "Posterize": 4 - int(share * 4),
        "Solarize": min(255, 256 - int(share * 256)),
        "SolarizeAdd": int(share * 110),
    }
    if name in _UNSIGNED:
        return Operation(name, unsigned.get(name, 0))
    top = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 0.45 * width, "TranslateY": 0.45 * height}
    magnitude = share * top.get(name, 0.9) * (-1 if negative else 1)
    if name not in top:
        return Operation(name, max(0.1, 1 + magnitude))
    return Operation(name, _argument(name, magnitude))


def _argument(name: str, magnitude: float) -> float:
    """A signed magnitude in the units of the call: a shear's angle, an enhancement's factor."""
    if name in ("ShearX", "ShearY"):
        return math.degrees(math.atan(magnitude))
    return magnitude if name in ("Rotate", "TranslateX", "TranslateY") else 1.0 + magnitude


def operations_of(plan: EpochPlan, slot: int, size: Size) -> list[tuple[Operation, Array]]:
    """The operations of this slot (0 or 1), each with the rows of the plan that get it: what one call serves."""
    assert plan.coins is not None
    assert plan.signs is not None
    negative = plan.signs[:, slot].astype(np.int64)
    if plan.policy is not None:
        probability = np.array([row[slot][1] for row in CIFAR10_POLICY], dtype=np.float32)[plan.policy]
        code = plan.policy.astype(np.int64) * 2 + negative
    else:
        assert plan.operations is not None
        assert plan.levels is not None
        probability = np.full(len(plan), _RAND_PROBABILITY, dtype=np.float32)
        code = (plan.operations[:, slot].astype(np.int64) * 128 + plan.levels[:, slot]) * 2 + negative
    applied = np.flatnonzero(plan.coins[:, slot] <= probability)
    groups: dict[Operation, list[Array]] = {}
    for value, rows in groups_by(code[applied]):
        if plan.policy is not None:
            operation = cifar10_operation(value // 2, slot, bool(value % 2), size)
        else:
            operation = rand_operation(value // 256, value // 2 % 128, bool(value % 2), size)
        groups.setdefault(operation, []).append(applied[rows])
    return [(operation, np.concatenate(rows)) for operation, rows in groups.items()]


def groups_by(codes: Array) -> list[tuple[int, Array]]:
    """Each code with the rows that have it, both in increasing order."""
    order = np.argsort(codes, kind="stable")
    values, starts = np.unique(codes[order], return_index=True)
    return list(zip(values.tolist(), np.split(order, starts[1:]), strict=True)) if len(codes) else []


def operators() -> ModuleType:
    """`torchvision.transforms.v2.functional`, imported when it is first needed: it takes two seconds."""
    from torchvision.transforms.v2 import functional

    return functional  # type: ignore[no-any-return]


def apply(
    images: Tensor,
    operation: Operation,
    *,
    fill: Sequence[int] | None = None,
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """One operation on uint8 images (B, 3, H, W), as `torchvision.transforms.v2.AutoAugment` calls it on each alone.

    fill: value of each channel, 0 to 255, for pixels that move in from outside; None for black.
    """
    if operation.name not in _MOVING:
        changed: Tensor = _change_colours(images, operation)
        return changed
    if fill is None or interpolation == "bilinear":
        return _move(images, operation, fill, interpolation)
    # Nearest pixels are moved, not computed with: black that moves in becomes the fill, in half the time of torchvision's mask.
    mask = to_device(torch.tensor(fill, dtype=torch.uint8).view(-1, 1, 1), images.device)
    return _move(images ^ mask, operation, None, interpolation) ^ mask


def _move(images: Tensor, operation: Operation, fill: Sequence[int] | None, interpolation: Interpolation) -> Tensor:
    functional, name, value = operators(), operation.name, operation.value
    how: dict[str, Any] = {"interpolation": interpolation, "fill": None if fill is None else list(fill)}
    moved: Tensor
    if name in ("TranslateX", "TranslateY"):
        left, top = (value, 0) if name == "TranslateX" else (0, value)
        if interpolation == "nearest" and value == int(value):  # the same pixels, ten times as fast
            moved = functional.crop(images, -int(top), -int(left), *images.shape[-2:])
        else:
            moved = functional.affine(images, angle=0.0, translate=[left, top], scale=1.0, shear=[0.0, 0.0], **how)
    elif name == "Rotate":
        moved = functional.rotate(images, angle=value, **how)
    else:
        shear = [value, 0.0] if name == "ShearX" else [0.0, value]
        moved = functional.affine(images, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0], **how)
    return moved


def _change_colours(images: Tensor, operation: Operation) -> Any:
    name, value = operation.name, operation.value
    if name == "SolarizeAdd":
        return solarize_add(images, int(value))
    function = getattr(operators(), _FUNCTIONS[name])
    if name in _PLAIN:
        return function(images)
    return function(images, int(value) if name == "Posterize" else value)


def solarize_add(images: Tensor, amount: int) -> Tensor:
    """Add `amount`, at most 128, to every value under 128 (timm/data/auto_augment.py, `solarize_add`)."""
    return torch.where(images < _SOLARIZE_ADD_BELOW, images + amount, images)
