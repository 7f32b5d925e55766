"""The weights file explains itself, repeats itself, and refuses what it is not."""

import dataclasses
import errno
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from cctkit.catalog.models import named_config
from cctkit.errors import UserError
from cctkit.models import weights
from cctkit.models.build import build_model
from cctkit.models.weights import Trained, WeightsInfo, check_tensors, read_info, read_weights, save_weights
from tests.mutants import MANY, mutated_bytes, mutated_json, refused_or_read


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


def test_a_temperature_comes_back_and_adds_no_key_that_earlier_versions_refuse(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors=TENSORS, info=info(metrics={"temperature": 1.25}))
    assert read_weights(path)[1].temperature == 1.25
    assert info().temperature is None
    with safe_open(path, framework="pt") as file:
        keys = json.loads(file.metadata()["cctkit"]).keys()
    known = {"schema_version", "model", "class_names", "mean", "std", "resize_mode", "dataset", "recipe", "metrics", "digest"}
    assert keys == known  # of the first version that wrote digests


@pytest.mark.parametrize("value", [0, -1.0, "1", None, True, [1.0], float("inf"), float("nan")])
def test_a_temperature_that_is_no_positive_number_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors=TENSORS, info=info(metrics={"temperature": value}))
    with pytest.raises(UserError, match="the header of the weights file is malformed: temperature is"):
        read_info(path)


def test_equal_weights_give_equal_bytes_and_one_header_key(tmp_path: Path) -> None:
    digests = set()
    for i in range(5):
        path = tmp_path / f"{i}.safetensors"
        save_weights(path, tensors=TENSORS, info=info())
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    with safe_open(path, framework="pt") as file:
        assert list(file.metadata()) == ["cctkit"]


def test_the_digest_is_of_the_tensors_their_entries_and_the_header(tmp_path: Path) -> None:
    """Computed here from the bytes of the file alone."""
    header, data = written(tmp_path)
    ours = json.loads(header.pop("__metadata__")["cctkit"])
    digest = ours.pop("digest")
    text = json.dumps([ours, header], sort_keys=True).encode()
    assert digest == "sha256:" + hashlib.sha256(data + text).hexdigest()
    assert read_info(tmp_path / "whole").digest == digest


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_flipped_bit_is_an_error(tmp_path: Path, every: int) -> None:
    """In each of the bytes one; 138 of 400 such files passed before there was a digest."""
    written(tmp_path)
    path, whole = tmp_path / "whole", (tmp_path / "whole").read_bytes()
    generator = random.Random(0)
    for place in range(0, len(whole), every):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(UserError) as caught:
            read_weights(path)
        assert caught.value.where == str(path)


def test_a_file_without_a_digest_is_read_as_not_verified(tmp_path: Path) -> None:
    tensors, found = read_weights(without_digest(tmp_path))
    assert (found, found.digest) == (info(), None)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_weights_replaced_while_they_are_read_match_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    infos = [info(trained=Trained(epoch=epoch, planned_epochs=9, chosen_by="last epoch")) for epoch in (1, 2)]
    for tensor, each in zip((torch.zeros(2), torch.ones(2)), infos, strict=True):
        save_weights(path, tensors={"weight": tensor}, info=each)
        path.rename(tmp_path / f"epoch {int(tensor[0])}")
    (tmp_path / "epoch 0").rename(path)
    check = weights.check_digest

    def replaced_after(*arguments: Any) -> bool:
        found = check(*arguments)
        if (tmp_path / "epoch 1").exists():
            (tmp_path / "epoch 1").rename(path)
        return found

    monkeypatch.setattr(weights, "check_digest", replaced_after)
    tensors, found = read_weights(path)
    assert (tensors["weight"].tolist(), found.trained) == ([1, 1], infos[1].trained)


def test_prefixes_of_ddp_and_compile_are_removed_from_the_names(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors={"_orig_mod.module.fc.weight": torch.ones(1)}, info=info())
    assert list(read_weights(path)[0]) == ["fc.weight"]


def test_tied_weights_are_written_and_come_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    save_weights(tmp_path / "w", tensors={"a": shared, "b": shared, "part": shared[0], "turned": shared.T}, info=info())
    tensors, _ = read_weights(tmp_path / "w")
    assert tensors["a"].tolist() == tensors["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["part"].tolist() == [0, 1, 2]
    assert tensors["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    "lie",
    [
        {"num_layers": 10**9},
        {"num_convs": 10**9},
        {"num_conv_blocks": 10**9},
        {"repeats": 10**9},
        {"embed_dim": 2**40},
        {"embed_dim": 2**62},
        {"kernel_size": 2**31},
    ],
)
def test_a_header_with_a_false_model_size_is_an_error_and_takes_no_memory(tmp_path: Path, lie: dict[str, int]) -> None:
    config = named_config("cct_2_3x2", num_classes=2)
    tensors = build_model(config).state_dict()
    save_weights(tmp_path / "w", tensors=tensors, info=info())
    check_tensors(*read_weights(tmp_path / "w"), tmp_path / "w")
    save_weights(tmp_path / "w", tensors=tensors, info=info(model=dataclasses.replace(config, **lie)))
    with pytest.raises(UserError, match="cct_2_3x2"):
        check_tensors(*read_weights(tmp_path / "w"), tmp_path / "w")


def test_a_file_of_another_program_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not from cctkit"):
        read_weights(path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"class_names": ["one"]},
        {"mean": [0.5]},
        {"std": [10**400, 0.2, 0.2]},
        {"model": {"name": "x"}},
        {"dataset": {}},
        {"surprise": 1},
        {"upsampling": {"stored_size": [32, 32], "mode": "nearest"}},
        {"upsampling": {"stored_size": [32], "mode": "bilinear"}},
        {"upsampling": {"stored_size": [33, 32], "mode": "bilinear"}},
        {"upsampling": "bilinear"},
    ],
)
def test_an_inconsistent_header_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
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


def written(tmp_path: Path) -> tuple[dict[str, Any], bytes]:
    """The JSON header of a weights file, and what follows it."""
    path = tmp_path / "whole"
    save_weights(path, tensors=TENSORS, info=info())
    return parts_of(path)


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size]), path.read_bytes()[8 + size :]


def without_digest(folder: Path) -> Path:
    """A weights file as versions before the digests wrote it."""
    header, data = written(folder)
    ours = json.loads(header["__metadata__"]["cctkit"])
    del ours["digest"]
    text = json.dumps(header | {"__metadata__": {"cctkit": json.dumps(ours, sort_keys=True)}}).encode()
    path = folder / "old"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def read_mutant(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused_or_read(lambda: check_tensors(*read_weights(path), path))


@given(data=st.data())
@MANY
def test_a_mutated_file_is_an_error_or_reads_completely(data: st.DataObject, tmp_path: Path) -> None:
    header, rest = parts_of(without_digest(tmp_path))  # else the digest alone would refuse them all
    kind = data.draw(st.sampled_from(["bytes", "tensors", "info"]))
    if kind == "bytes":
        read_mutant(tmp_path / "w", data.draw(mutated_bytes((tmp_path / "whole").read_bytes())))
        return
    if kind == "info":
        ours = data.draw(mutated_json(json.loads(header["__metadata__"]["cctkit"])))
        text = json.dumps(header | {"__metadata__": {"cctkit": ours.decode("utf-8", "replace")}}).encode()
    else:
        text = data.draw(mutated_json(header))
    read_mutant(tmp_path / "w", len(text).to_bytes(8, "little") + text + rest)


def test_a_file_that_cannot_be_opened_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")

    def refuse(path: object, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        read_weights(tmp_path / "w.safetensors")
