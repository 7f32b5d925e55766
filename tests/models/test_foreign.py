"""Files of other programs are read as plain tensors; what would run code, or claims more than it holds, is refused."""

import argparse
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cctkit.errors import UserError
from cctkit.models.foreign import read_foreign

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def assert_read(path: Path) -> None:
    tensors = read_foreign(path)
    assert tensors.keys() == WEIGHTS.keys()
    assert all(torch.equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: OrderedDict(weights),
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"state": {}}},
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {"state_dict": {"a.weight": torch.zeros(1)}, "state_dict_ema": weights},
        lambda weights: {"state_dict": weights, "args": argparse.Namespace(lr=0.1)},
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
        lambda weights: {**weights, "epoch": 7, "name": "x"},
    ],
)
def test_weights_are_found_in_what_torch_saved(tmp_path: Path, wrap: Any, zipped: bool) -> None:
    assert_read(saved(tmp_path / "w.pth", wrap(WEIGHTS), _use_new_zipfile_serialization=zipped))


def test_weights_are_found_in_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({f"module.{name}": value for name, value in WEIGHTS.items()}, path)
    assert_read(path)


class Exploit:
    """Unpickled in earnest, it would make the file MARK."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def exploits(mark: Path) -> dict[str, Any]:
    command = f"touch {mark}"
    return {
        "system": Exploit(os.system, command),
        "eval": Exploit(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Exploit(exec, f"open({str(mark)!r}, 'w')"),
        "open": Exploit(open, str(mark), "w"),
        "mkdir": Exploit(os.mkdir, str(mark)),
        "copy": Exploit(shutil.copyfile, __file__, str(mark)),
        "import": Exploit(__import__, "antigravity"),
        "nested": {"state_dict": {**WEIGHTS, "c": Exploit(os.system, command)}},
        "torch.load": Exploit(torch.load, str(mark)),
        "hub": Exploit(torch.hub.load, str(mark.parent), "model"),
    }


@pytest.mark.parametrize("name", exploits(Path("x")))
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_file_that_would_run_code_is_an_error_and_runs_nothing(tmp_path: Path, name: str, form: str) -> None:
    mark = tmp_path / "mark"
    payload, path = exploits(mark)[name], tmp_path / "w.pth"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        saved(path, payload, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match="not run") as caught:
        read_foreign(path)
    assert not mark.exists()
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


def test_the_exploits_are_real(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(exploits(mark)["system"]))
    assert mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not run"):
        read_foreign(saved(tmp_path / "model.pth", torch.nn.Linear(2, 2)))


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a dense tensor"):
        read_foreign(saved(tmp_path / "w.pth", {"a": torch.zeros(1).expand(10**12)}))
    sparse = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.tensor([1.0]), (10**6, 10**6), check_invariants=True)
    with pytest.raises(UserError, match=r"not a dense tensor|not run"):  # torch warns first, which is an error here
        read_foreign(saved(tmp_path / "s.pth", {"a": sparse}))


def test_a_compressed_file_is_refused_before_it_grows(tmp_path: Path) -> None:
    plain, packed = saved(tmp_path / "w.pth", {"a": torch.zeros(10**6)}), tmp_path / "packed.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry.filename))
    with pytest.raises(UserError, match="compressed"):
        read_foreign(packed)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x02}q\x00.", b"PK\x03\x04", b"(lp0\n."])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_without_weights_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError):
        read_foreign(path)


def test_a_missing_file_and_one_without_tensors_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such weights file"):
        read_foreign(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="no weights"):
        read_foreign(saved(tmp_path / "w.pth", {"epoch": 3}))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_an_error_or_reads_completely(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = saved(tmp_path_factory.mktemp("w") / "w.pth", WEIGHTS)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        tensors = read_foreign(path)
    except UserError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
