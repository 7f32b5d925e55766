"""The weights file explains itself, repeats itself, and refuses what it is not."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from cctkit.catalog.models import named_config
from cctkit.errors import UserError
from cctkit.models.weights import WeightsInfo, read_info, read_weights, save_weights


def info(**changes: object) -> WeightsInfo:
    values = {
        "model": named_config("cct_2_3x2", num_classes=2),
        "class_names": ("cat", "dog"),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.2),
        "resize_mode": "crop",
        "dataset": {"name": "pets", "named": False, "fingerprint": "sha256:0", "split_seed": 0, "val_fraction": 0.0},
        "recipe": "fast",
        "metrics": {"top1_percent": 50.0},
    }
    return WeightsInfo(**values | changes)  # type: ignore[arg-type]


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors=TENSORS, info=info())
    tensors, found = read_weights(path)
    assert found == info()
    assert read_info(path) == info()
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_equal_weights_give_equal_bytes_and_one_header_key(tmp_path: Path) -> None:
    digests = set()
    for i in range(5):
        path = tmp_path / f"{i}.safetensors"
        save_weights(path, tensors=TENSORS, info=info())
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    with safe_open(path, framework="pt") as file:
        assert list(file.metadata()) == ["cctkit"]


def test_wrappers_leave_no_trace_in_the_names(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors={"_orig_mod.module.fc.weight": torch.ones(1)}, info=info())
    assert list(read_weights(path)[0]) == ["fc.weight"]


def test_another_programs_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not cctkit's"):
        read_weights(path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"class_names": ["one"]},
        {"mean": [0.5]},
        {"model": {"name": "x"}},
        {"dataset": {}},
        {"surprise": 1},
    ],
)
def test_a_header_that_does_not_hold_together_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors=TENSORS, info=info())
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["cctkit"])
    save_file(TENSORS, path, metadata={"cctkit": json.dumps(header | change)})
    with pytest.raises(UserError):
        read_weights(path)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights file"):
        read_weights(tmp_path / "nothing.safetensors")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_an_error_or_reads_whole(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    save_weights(path, tensors=TENSORS, info=info())
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        tensors, _ = read_weights(path)
    except UserError:
        return
    assert {name: tensor.shape for name, tensor in tensors.items()}.keys() <= {"a", "b", *tensors}
