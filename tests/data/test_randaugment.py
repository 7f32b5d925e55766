"""RandAugment has timm's operations, magnitudes and fill."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from cctkit.config.settings import AugmentConfig
from cctkit.data.epoch.augment import augment
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.epoch.policies import RAND_OPERATIONS, Operation, apply, operations_of, rand_operation, solarize_add

ONLY_RAND = AugmentConfig(auto_augment="rand", crop="none", flip=False)

# timm/data/auto_augment.py, LEVEL_TO_ARG at a level in tenths, for images 32 high and 20 wide.
ARGUMENTS = [
    ("AutoContrast", 90, True, 0),
    ("Equalize", 90, True, 0),
    ("Invert", 90, True, 0),
    ("Rotate", 90, True, -27.0),
    ("Posterize", 90, False, 1),  # 4 - int(3.6)
    ("Posterize", 74, False, 2),  # 4 - int(2.96)
    ("Solarize", 90, False, 26),  # 256 - int(230.4)
    ("SolarizeAdd", 90, False, 99),
    ("SolarizeAdd", 95, True, 104),  # int(104.5)
    ("Color", 90, False, 1.81),
    ("Contrast", 90, True, 0.19),
    ("Brightness", 100, True, 0.1),
    ("Sharpness", 95, False, 1.855),
    ("ShearX", 90, False, math.degrees(math.atan(0.27))),
    ("ShearY", 90, True, -math.degrees(math.atan(0.27))),
    ("TranslateX", 100, False, 9.0),
    ("TranslateY", 90, True, -12.96),
]


@pytest.mark.parametrize(("name", "tenths", "negative", "expected"), ARGUMENTS)
def test_the_arguments_equal_timms(name: str, tenths: int, negative: bool, expected: float) -> None:
    operation = rand_operation(RAND_OPERATIONS.index(name), tenths, negative, (32, 20))
    assert operation.name == name
    assert operation.value == pytest.approx(expected)


def plan_of(name: str, level: int, negative: bool, number: int, config: AugmentConfig = ONLY_RAND) -> EpochPlan:
    """A plan whose first operation is this one, applied to every image, and whose second is applied to none."""
    return EpochPlan(
        order=np.arange(number),
        config=config,
        batch_size=number,
        operations=np.full((number, 2), RAND_OPERATIONS.index(name), dtype=np.uint8),
        levels=np.full((number, 2), level, dtype=np.uint8),
        coins=np.tile(np.array([0.5, 0.501], dtype=np.float32), (number, 1)),
        signs=np.full((number, 2), negative),
    )


def test_an_operation_is_applied_with_probability_one_half() -> None:
    plan = plan_of("Invert", 90, False, 3)
    images = torch.arange(3 * 3 * 8 * 8, dtype=torch.int64).remainder(256).to(torch.uint8).view(3, 3, 8, 8)
    assert torch.equal(augment(images, plan=plan), 255 - images)
    assert operations_of(plan, 1, (8, 8)) == []


@pytest.mark.parametrize(("level", "negative", "filled"), [(100, False, slice(0, 9)), (100, True, slice(11, 20))])
def test_pixels_from_outside_have_the_fill_of_their_channel(level: int, negative: bool, filled: slice) -> None:
    images = torch.full((2, 3, 20, 20), 200, dtype=torch.uint8)
    plan = plan_of("TranslateX", level, negative, 2)  # by 0.45 of the width
    out = augment(images, plan=plan, mean=[10, 20, 30])
    expected = images.clone()
    expected[..., filled] = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    assert torch.equal(out, expected)


def test_auto_augment_fills_with_black_whatever_the_mean() -> None:
    plan = EpochPlan(  # sub-policy 21: two translations
        order=np.arange(2),
        config=AugmentConfig(crop="none", flip=False),
        batch_size=2,
        policy=np.full(2, 21, dtype=np.uint8),
        coins=np.zeros((2, 2), dtype=np.float32),
        signs=np.zeros((2, 2), dtype=bool),
    )
    images = torch.full((2, 3, 20, 20), 200, dtype=torch.uint8)
    out = augment(images, plan=plan, mean=[10, 20, 30])
    assert set(out.flatten().tolist()) == {0, 200}


def test_solarize_add_adds_below_128_only() -> None:
    values = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8)
    assert solarize_add(values, 110).tolist() == [110, 210, 237, 128, 255]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", RAND_OPERATIONS)
def test_an_image_in_a_group_equals_the_image_alone(name: str, interpolation: Any) -> None:
    images = torch.randint(20, 230, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    how: Any = {"fill": [1, 2, 3], "interpolation": interpolation}
    operation = rand_operation(RAND_OPERATIONS.index(name), 93, True, (32, 32))
    together = apply(images, operation, **how)
    alone = torch.cat([apply(image[None], operation, **how) for image in images])
    assert together.dtype == torch.uint8
    assert torch.equal(together, alone)
    assert not torch.equal(together, images)


def torchvisions(images: torch.Tensor, name: str, value: float, **how: Any) -> torch.Tensor:
    """The call of torchvision's functional form, of all images alike."""
    stay: Any = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    calls: Any = {
        "Rotate": lambda: F.rotate(images, value, **how),
        "ShearX": lambda: F.affine(images, **stay | {"shear": [value, 0.0]}, center=[0, 0], **how),
        "ShearY": lambda: F.affine(images, **stay | {"shear": [0.0, value]}, center=[0, 0], **how),
        "TranslateX": lambda: F.affine(images, **stay | {"translate": [value, 0]}, **how),
        "TranslateY": lambda: F.affine(images, **stay | {"translate": [0, value]}, **how),
    }
    return calls[name]()  # type: ignore[no-any-return]


@pytest.mark.parametrize("fill", [None, 0, 128, 255])
@pytest.mark.parametrize("interpolation", [None, "nearest", "bilinear"])
@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_fill_and_interpolation_equal_torchvisions(name: str, interpolation: Any, fill: int | None) -> None:
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for level, negative in ((93, True), (100, False)):  # translations by 8.37 and by 9 pixels
        config = AugmentConfig(auto_augment="rand", crop="none", flip=False, aa_fill=fill, aa_interpolation=interpolation)
        out = augment(images, plan=plan_of(name, level, negative, 4, config), mean=[10, 20, 30])
        value = rand_operation(RAND_OPERATIONS.index(name), level, negative, (20, 20)).value
        expected = torchvisions(
            images, name, value, interpolation=interpolation or "bilinear", fill=[10, 20, 30] if fill is None else fill
        )
        assert torch.equal(out, expected)


def test_an_unknown_operation_is_a_bug_that_names_it() -> None:
    with pytest.raises(KeyError, match="Cutout"):
        apply(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), Operation("Cutout"))
