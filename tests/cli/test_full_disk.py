"""A full disk is exit 4 in three lines, and the remedy is one that helps: `--resume` only where a run has begun."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cctkit import files
from cctkit.cli.app import run
from cctkit.training import checkpoint

TRAIN = ["train", "--dataset", "digits", "--image-size", "8", "--model", "cct_2_3x2", "--epochs", "2", "--precision", "float32"]
TRAIN += ["--batch-size", "256", "--quiet", "--threads", "1"]


def fill(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    """From the first file of this name on the disk is full."""
    if place is files:
        monkeypatch.setattr(files, "open", lambda path, mode: opened(path, mode, name), raising=False)
        return
    real = place.write_synced

    def write(path: Path, data: bytes) -> None:
        if name in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(place, "write_synced", write)


def opened(path: Path, mode: str, full: str) -> Any:
    """A file that is opened, unless its name has `full` in it."""
    if full in str(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return open(path, mode)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    assert run([*TRAIN, "-o", str(path)]) == 0
    return path


@pytest.mark.parametrize(
    ("place", "name"),
    [(checkpoint, "model.safetensors"), (files, "last.safetensors"), (files, "weights.safetensors"), (files, "result.json")],
)
def test_a_run_that_has_begun_is_resumed_when_there_is_space(
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Any,
    name: str,
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        fill(patch, place, name)
        assert run([*TRAIN, "-o", str(path)]) == 4
    message = capsys.readouterr().err.splitlines()[-3:]
    kept = "; what was saved before is intact" if (path / name).exists() else ""
    assert message[0] == "error: cannot write: No space left on device" + kept
    assert message[2] == f"  try: free some space, then resume with: cctkit train --resume {path}"
    assert run(["train", "--resume", str(path), "--quiet"]) == 0
    assert (path / "weights.safetensors").read_bytes() == (finished / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["env.json", "config.json"])
def test_before_a_run_has_begun_nothing_is_left_and_nothing_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fill(monkeypatch, files, name)
    assert run([*TRAIN, "-o", str(tmp_path / "runs" / "new")]) == 4
    assert list(tmp_path.iterdir()) == []
    assert "--resume" not in capsys.readouterr().err


def test_an_evaluation_has_nothing_to_resume(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    fill(monkeypatch, files, "predictions.safetensors")
    assert run(["eval", str(tmp_path / "run"), "--quiet"]) == 4
    assert "--resume" not in capsys.readouterr().err
    before = (finished / "predictions.safetensors").read_bytes()
    assert (tmp_path / "run" / "predictions.safetensors").read_bytes() == before
