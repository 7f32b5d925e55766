"""One architecture: what does not fit together is refused."""

import dataclasses
import json
from typing import Any

import pytest

from cctkit.config.model import ModelConfig
from cctkit.errors import UserError

VIT: dict[str, Any] = {"name": "vit_lite_6_4", "family": "vit_lite", "patch_size": 4}


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError) as caught:
        ModelConfig(name="cct_2_3x2", family="cct", embed_dim=100, num_heads=3)
    assert (caught.value.what, caught.value.where) == (
        "embed_dim 100 is not divisible by num_heads 3",
        "--embed-dim, --num-heads",
    )


@pytest.mark.parametrize("size", [(7, 32), (32, 7), (1, 1)])
def test_an_image_under_eight_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"image size {size[0]}x{size[1]} is too small, expected at least 8 pixels per side"):
        ModelConfig(name="cct_2_3x2", family="cct", image_size=size)
    assert ModelConfig(name="cct_2_3x2", family="cct", image_size=(8, 8)).image_size == (8, 8)


def test_patches_must_divide_the_image_and_a_cct_takes_any() -> None:
    assert ModelConfig(**VIT, image_size=(48, 32)).image_size == (48, 32)
    assert ModelConfig(name="cct_2_3x2", family="cct", image_size=(33, 47)).image_size == (33, 47)
    for size in ((33, 32), (32, 33)):
        with pytest.raises(UserError) as caught:
            ModelConfig(**VIT, image_size=size)
        assert caught.value.what == f"the patch size of vit_lite_6_4, 4 pixels, does not divide {size[0]}x{size[1]}"
        assert str(caught.value.remedy).endswith(", or a cct model, which takes any size")


@pytest.mark.parametrize(
    "values",
    [
        {"family": "resnet"},
        {"num_classes": 0},
        {"num_layers": 0},
        {"mlp_ratio": 0.0},
        {"name": 3},
        {"kernel_size": 0},
        {"drop_path": 1.0},
    ],
)
def test_an_architecture_from_a_file_is_checked(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ModelConfig(**({"name": "cct_2_3x2", "family": "cct"} | values))


def test_an_architecture_comes_back_from_json() -> None:
    config = ModelConfig(name="cct_2_3x2", family="cct", image_size=(48, 32), mlp_ratio=2)
    assert ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
