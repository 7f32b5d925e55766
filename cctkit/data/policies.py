"""AutoAugment's and RandAugment's operations as tables: name, magnitude and sign of each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cctkit.config import Size
from cctkit.data.plan import EpochPlan

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

_UNSIGNED = {"AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd"}
_RAND_PROBABILITY = 0.5
_SOLARIZE_ADD_BELOW = 128


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation with its magnitude, in the units of `apply`; bilinear or nearest where pixels move."""

    name: str
    magnitude: float = 0.0
    bilinear: bool = False


def cifar10_magnitude(name: str, level: int, size: Size) -> float:
    """The magnitude of one of AutoAugment's ten bins, without its sign, in float32 as torchvision computes it."""
    height, width = size
    top = {"TranslateX": 150 / 331 * width, "TranslateY": 150 / 331 * height, "Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3}
    if name in _UNSIGNED - {"Posterize", "Solarize"}:
        return 0.0
    if name == "Posterize":
        return float(round(8 - level / (9 / 4)))
    bins = torch.linspace(1.0, 0.0, 10) if name == "Solarize" else torch.linspace(0.0, top.get(name, 0.9), 10)
    return float(bins[level])


@cache
def _cifar10_operation(policy: int, slot: int, negative: bool, size: Size) -> Operation:
    name, _, level = CIFAR10_POLICY[policy][slot]
    magnitude = cifar10_magnitude(name, level, size)
    return Operation(name, -magnitude if negative and name not in _UNSIGNED else magnitude)


@cache
def _rand_operation(index: int, tenths: int, negative: bool, size: Size) -> Operation:
    """timm's `_LEVEL_TO_ARG` of the increasing operations, in the units of `apply`."""
    name, share, sign = RAND_OPERATIONS[index], tenths / 100, -1 if negative else 1
    height, width = size
    magnitudes: dict[str, float] = {
        "Rotate": sign * share * 30,
        "Posterize": 4 - int(share * 4),
        "Solarize": (256 - min(256, int(share * 256))) / 255,
        "SolarizeAdd": min(_SOLARIZE_ADD_BELOW, int(share * 110)),
        "ShearX": sign * share * 0.3,
        "ShearY": sign * share * 0.3,
        "TranslateX": sign * share * 0.45 * width,
        "TranslateY": sign * share * 0.45 * height,
    }
    enhance = max(0.1, 1 + sign * share * 0.9) - 1
    flat = name in {"AutoContrast", "Equalize", "Invert"}
    return Operation(name, 0.0 if flat else magnitudes.get(name, enhance), bilinear=True)


def operations_of(plan: EpochPlan, slot: int, size: Size) -> dict[Operation, np.ndarray[Any, Any]]:
    """Which of the plan's images get which operation in this slot (0 or 1): the groups that one call serves."""
    assert plan.coins is not None
    assert plan.signs is not None
    negative = plan.signs[:, slot].astype(np.int64)
    make: Callable[[int], Operation]
    if plan.policy is not None:
        probability = np.array([row[slot][1] for row in CIFAR10_POLICY], dtype=np.float32)[plan.policy]
        code = plan.policy.astype(np.int64) * 2 + negative
        make = lambda code: _cifar10_operation(code // 2, slot, bool(code % 2), size)  # noqa: E731
    else:
        assert plan.operations is not None
        assert plan.levels is not None
        probability = np.full(len(plan), _RAND_PROBABILITY, dtype=np.float32)
        code = (plan.operations[:, slot].astype(np.int64) * 128 + plan.levels[:, slot]) * 2 + negative
        make = lambda code: _rand_operation(code // 256, code // 2 % 128, bool(code % 2), size)  # noqa: E731
    applied = np.flatnonzero(plan.coins[:, slot] <= probability)
    groups: dict[Operation, list[np.ndarray[Any, Any]]] = {}
    order = applied[np.argsort(code[applied], kind="stable")]
    codes, starts = np.unique(code[order], return_index=True)
    for value, rows in zip(codes.tolist(), np.split(order, starts[1:]), strict=False):
        groups.setdefault(make(value), []).append(rows)
    return {operation: np.concatenate(rows) for operation, rows in groups.items()}


def apply(images: Tensor, operation: Operation) -> Tensor:
    """One operation on uint8 images (B, 3, H, W), as `torchvision.transforms.v2.AutoAugment` calls it on each alone."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    value = operation.magnitude
    mode = InterpolationMode.BILINEAR if operation.bilinear else InterpolationMode.NEAREST

    def affine(*, translate: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        center = [0, 0] if any(shear) else None
        return F.affine(
            images, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear), interpolation=mode, center=center
        )

    calls: dict[str, Callable[[], Tensor]] = {
        "ShearX": lambda: affine(shear=(math.degrees(math.atan(value)), 0.0)),
        "ShearY": lambda: affine(shear=(0.0, math.degrees(math.atan(value)))),
        "TranslateX": lambda: affine(translate=(int(value), 0)),
        "TranslateY": lambda: affine(translate=(0, int(value))),
        "Rotate": lambda: F.rotate(images, angle=value, interpolation=mode),
        "Brightness": lambda: F.adjust_brightness(images, 1.0 + value),
        "Color": lambda: F.adjust_saturation(images, 1.0 + value),
        "Contrast": lambda: F.adjust_contrast(images, 1.0 + value),
        "Sharpness": lambda: F.adjust_sharpness(images, 1.0 + value),
        "Posterize": lambda: F.posterize(images, bits=int(value)),
        "Solarize": lambda: F.solarize(images, threshold=255 * value),
        "SolarizeAdd": lambda: solarize_add(images, int(value)),
        "AutoContrast": lambda: F.autocontrast(images),
        "Equalize": lambda: F.equalize(images),
        "Invert": lambda: F.invert(images),
    }
    changed: Tensor = calls[operation.name]()
    return changed


def solarize_add(images: Tensor, amount: int) -> Tensor:
    """Add `amount` to every value under 128, up to 255 (timm/data/auto_augment.py, `solarize_add`)."""
    added = (images.int() + amount).clamp_max(255).to(images.dtype)
    return torch.where(images < _SOLARIZE_ADD_BELOW, added, images)
