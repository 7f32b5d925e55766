"""A model without data: the same modules and shapes, at no cost."""

import subprocess
import sys

import pytest

from cctkit.catalog.models import named_config
from cctkit.models.build import build_model, build_without_data


@pytest.mark.parametrize("name", ["cct_2_3x2", "vit_lite_6_4", "vit_s_16"])
def test_a_model_without_data_has_the_modules_and_shapes_of_the_model(name: str) -> None:
    config = named_config(name)
    empty, real = build_without_data(config).state_dict(), build_model(config, seed=0).state_dict()
    assert {key: (each.shape, each.dtype) for key, each in empty.items()} == {
        key: (each.shape, each.dtype) for key, each in real.items()
    }
    assert all(each.is_meta for each in empty.values())


def test_a_model_without_data_is_built_without_torchs_compiler() -> None:
    code = (
        "import sys; from cctkit.catalog.models import named_config; from cctkit.models.build import build_without_data;"
        "build_without_data(named_config('cct_2_3x2')); print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
