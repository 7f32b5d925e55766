"""At every instant after the first checkpoint there is a valid one on the disk."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cctkit import files
from cctkit.errors import ResourceError, UserError
from cctkit.training import checkpoint
from cctkit.training.checkpoint import (
    begin_checkpoint,
    finish_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_tensors,
)
from tests.mutants import MANY, mutated_bytes, mutated_json, refused_or_read


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"a": torch.arange(6.0).view(3, 2) + step, "half": torch.ones(2, dtype=torch.bfloat16)},
        "optimizer": {"0.0.step": torch.tensor(float(step)), "count": torch.tensor(step)},
    }


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step=step, tensors=tensors(step), state={"step": step, "note": "x"})


def save_by_two(folder: Path, step: int) -> Path:
    """The same checkpoint by two writers: the first has one row of `a`, the other two, and what is whole the first has."""
    beside, manifest = begin_checkpoint(folder), {}
    for writer, rows in enumerate((slice(0, 1), slice(1, 3))):
        own = {"model": {"a": tensors(step)["model"]["a"][rows]}, "optimizer": {}}
        if writer == 0:
            own = {"model": tensors(step)["model"] | own["model"], "optimizer": tensors(step)["optimizer"]}
        manifest |= write_tensors(beside, own, writer=(writer, 2))
    return finish_checkpoint(beside, step=step, state={"step": step, "note": "x"}, manifest=manifest)


def load(folder: Path) -> int:
    """The step of the newest valid checkpoint, every tensor of which has been compared."""
    found = load_checkpoint(folder, warn=lambda _: None)
    assert found is not None
    assert found.state == {"step": found.step, "note": "x"}
    for name, part in tensors(found.step).items():
        assert found.tensors[name].keys() == part.keys()
        for key, tensor in part.items():
            assert torch.equal(found.tensors[name][key], tensor)
            assert found.tensors[name][key].dtype == tensor.dtype
    return found.step


def test_the_two_newest_generations_are_kept_and_the_newest_is_used(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", warn=lambda _: None) is None
    for step in (0, 5, 9):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000005", "step-000000009"]
    assert load(tmp_path) == 9


def test_a_memory_format_of_its_own_is_stored_plainly(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path, step=1, tensors={"model": {"x": image}}, state={})
    found = load_checkpoint(tmp_path, warn=lambda _: None)
    assert found is not None
    assert torch.equal(found.tensors["model"]["x"], image)


def test_tied_tensors_come_back(tmp_path: Path) -> None:
    shared = torch.randn(3, 2)
    save_checkpoint(tmp_path, step=1, tensors={"model": {"a": shared, "b": shared, "part": shared[1:]}}, state={})
    found = load_checkpoint(tmp_path, warn=lambda _: None)
    assert found is not None
    assert {name: tensor.tolist() for name, tensor in found.tensors["model"].items()} == {
        "a": shared.tolist(),
        "b": shared.tolist(),
        "part": shared[1:].tolist(),
    }


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_spoilt_checkpoint_falls_back_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "cut" else content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    warnings: list[str] = []
    found = load_checkpoint(tmp_path, warn=warnings.append)
    assert found is not None
    assert found.step == 1
    assert "step-000000002" in warnings[0]
    shutil.rmtree(tmp_path / "step-000000001")
    with pytest.raises(UserError, match="no checkpoint of this run is valid"):
        load(tmp_path)


class Disk:
    """Records what a writer does, as steps that can be replayed up to any point, with or without unsynced data."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, Any]] = []
        real_fsync, real_rename, real_rmtree = os.fsync, os.rename, shutil.rmtree
        real_write = files.write_synced

        def write(path: Path, data: bytes) -> None:
            self.steps.append(("write", (path, data)))
            real_write(path, data)

        def fsync(descriptor: int) -> None:
            self.steps.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
            real_fsync(descriptor)

        def rename(a: Path, b: Path) -> None:
            self.steps.append(("rename", (a, b)))
            real_rename(a, b)

        def rmtree(path: Path, **_: Any) -> None:
            if Path(path).exists():
                self.steps.append(("remove", path))
            real_rmtree(path, ignore_errors=True)

        monkeypatch.setattr(checkpoint, "write_synced", write)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(shutil, "rmtree", rmtree)

    def replay(self, start: Path, target: Path, upto: int) -> None:
        """The state of the disk after a crash at step `upto`: what was not synced by then is torn."""
        shutil.copytree(start, target)

        def there(path: Path) -> Path:
            return target / Path(path).relative_to(start)

        done = self.steps[:upto]
        synced = {Path(what) for kind, what in done if kind == "sync"}
        for kind, what in done:
            if kind == "write":
                path, data = what
                there(path).parent.mkdir(exist_ok=True)
                there(path).write_bytes(data if path in synced else data[: len(data) // 2])
            elif kind == "rename":
                there(what[0]).rename(there(what[1]))
            elif kind == "remove":
                shutil.rmtree(there(what), ignore_errors=True)


@pytest.mark.parametrize("save", [save, save_by_two])
def test_every_crash_state_recovers(save: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the files are not fsynced, or when the rename comes before they are."""
    folder = tmp_path / "live"
    for step in (1, 2):
        save(folder, step)
    start = tmp_path / "start"
    shutil.copytree(folder, start)
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        save(folder, 3)
    moved = [(kind, what) for kind, what in disk.steps]
    disk.steps = [(kind, _moved(what, folder, start)) for kind, what in moved]
    assert {kind for kind, _ in disk.steps} == {"write", "sync", "rename", "remove"}
    steps_seen = []
    for upto in range(len(disk.steps) + 1):
        target = tmp_path / f"crash-{upto}"
        disk.replay(start, target, upto)
        steps_seen.append(load(target))
    assert steps_seen[0] == 2
    assert steps_seen[-1] == 3
    assert steps_seen == sorted(steps_seen)


def _moved(what: Any, before: Path, after: Path) -> Any:
    def move(path: Any) -> Any:
        return after / Path(path).relative_to(before) if str(path).startswith(str(before)) else path

    return tuple(move(item) if isinstance(item, Path) else item for item in what) if isinstance(what, tuple) else move(what)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    save(tmp_path, 1)
    at = 0
    while True:
        calls = iter(range(1000))

        def failing(real: Callable[..., Any], calls: Any = calls, at: int = at) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                if next(calls) == at:
                    raise OSError(fault, os.strerror(fault))
                return real(*args)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_synced", failing(files.write_synced))
            patch.setattr(os, "fsync", failing(os.fsync))
            patch.setattr(os, "rename", failing(os.rename))
            try:
                save(tmp_path, 2)
                break
            except ResourceError:  # exit code 4
                pass
        assert load(tmp_path) in (1, 2)
        assert all(path.name.startswith("step-") for path in tmp_path.iterdir())
        shutil.rmtree(tmp_path / "step-000000002", ignore_errors=True)
        at += 1
    assert at > 8
    assert load(tmp_path) == 2


def test_the_pieces_of_two_writers_are_one_checkpoint_and_without_one_of_them_none(tmp_path: Path) -> None:
    save(tmp_path, 1)
    whole = save_by_two(tmp_path, 2)
    assert load(tmp_path) == 2
    for piece in sorted(whole.glob("*-of-2.safetensors")):
        content = piece.read_bytes()
        piece.unlink()
        assert load(tmp_path) == 1
        piece.write_bytes(content)
    assert load(tmp_path) == 2


def test_a_writer_whose_file_the_first_does_not_see_is_an_error_and_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    beside = begin_checkpoint(tmp_path)
    manifest = write_tensors(beside, tensors(2), writer=(0, 2)) | {"model-1-of-2.safetensors": {}}
    with pytest.raises(UserError, match="its machine uses a different directory"):
        finish_checkpoint(beside, step=2, state={}, manifest=manifest)
    assert load(tmp_path) == 1


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-123").mkdir()
    (tmp_path / ".tmp-123" / "model.safetensors").write_bytes(b"half")
    save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_an_older_generation_or_a_clear_error(data: st.DataObject, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    save(tmp_path, 1)
    file = data.draw(st.sampled_from(sorted(save(tmp_path, 2).iterdir())))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    assert load(tmp_path) == 1


@given(data=st.data())
@MANY
def test_a_mutant_with_a_manifest_of_its_own_is_refused_or_read(data: st.DataObject, tmp_path: Path) -> None:
    """Not by accident: each file says of itself what it is, and yet is not what it should be."""
    shutil.rmtree(tmp_path)
    whole = save(tmp_path, 1)
    name = data.draw(st.sampled_from(["manifest.json", "state.json", "model.safetensors"]))
    content = (whole / name).read_bytes()
    mutants = mutated_bytes(content) if name == "model.safetensors" else mutated_json(json.loads(content))
    (whole / name).write_bytes(data.draw(mutants))
    if name != "manifest.json":
        facts = {file.name: checkpoint._facts(file.read_bytes()) for file in whole.iterdir() if file.name != "manifest.json"}
        (whole / "manifest.json").write_text(json.dumps(facts))
    refused_or_read(lambda: load_checkpoint(tmp_path, warn=lambda _: None))


def test_a_manifest_that_lacks_a_file_is_damaged(tmp_path: Path) -> None:
    """Without its entry the best weights so far would silently be gone."""
    save(tmp_path, 1)
    whole = save(tmp_path, 2)
    manifest = json.loads((whole / "manifest.json").read_text())
    del manifest["optimizer.safetensors"]
    (whole / "manifest.json").write_text(json.dumps(manifest))
    assert load(tmp_path) == 1
