"""The run directory: one writer, nothing overwritten, writes that are whole or not at all."""

import errno
import os
import resource
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cctkit import rundir
from cctkit.errors import InUseError, ResourceError, UserError
from cctkit.rundir import RunDir, default_name, finite, newest_run, read_metrics, write_atomic


def tree(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "anything").write_text("kept")
    with pytest.raises(UserError, match="nothing is overwritten") as caught:
        RunDir.create(tmp_path / "run")
    assert "--resume" in str(caught.value.remedy)
    assert tree(tmp_path / "run") == {"anything": b"kept"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        RunDir.create(tmp_path / "file")


def test_an_empty_directory_is_taken_and_discarding_leaves_it_empty(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = RunDir.create(tmp_path / "run")
    run.write_json(run.config, {})
    run.discard()
    assert list((tmp_path / "run").iterdir()) == []
    made = RunDir.create(tmp_path / "runs" / "new")
    made.discard()
    assert not (tmp_path / "runs").exists()


HOLD = "import sys, time; from pathlib import Path; from cctkit.rundir import RunDir\n"


def test_of_many_starts_at_once_one_wins_and_the_losers_change_nothing(tmp_path: Path) -> None:
    code = HOLD + (
        "from cctkit.errors import UserError\n"
        "try:\n    run = RunDir.create(Path(sys.argv[1]))\nexcept UserError as error:\n    sys.exit(error.exit_code)\n"
        "run.write_json(run.config, {'winner': sys.argv[2]}); time.sleep(0.5)\n"
    )
    for race in range(3):
        path = tmp_path / str(race)
        starts = [subprocess.Popen([sys.executable, "-c", code, str(path), str(i)]) for i in range(4)]
        codes = [start.wait() for start in starts]
        assert sorted(codes) in ([0, 5, 5, 5], [0, 2, 5, 5], [0, 2, 2, 5], [0, 2, 2, 2])
        winner = codes.index(0)
        assert f'"{winner}"' in (path / "config.json").read_text()


def test_a_run_that_is_held_exits_5_and_is_free_at_once_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    code = HOLD + "r = RunDir.create(Path(sys.argv[1])); r.write_json(r.config, {}); print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    before = tree(path)
    for take in (RunDir.create, RunDir.open):
        with pytest.raises(InUseError) as caught:
            take(path)
        assert caught.value.exit_code == 5
    assert tree(path) == before
    holder.kill()
    holder.wait()
    holder.stdout.close()
    start = time.monotonic()
    RunDir.open(path).close()
    assert time.monotonic() - start < 1


def test_metrics_survive_a_torn_last_line_and_are_cut_to_the_checkpoint(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "run") as run:
        for epoch in (1, 2, 3):
            run.append_metrics({"epoch": epoch, "loss": float("nan")})
        with open(run.metrics, "ab") as file:
            file.write(b'{"epoch": 4, "lo')
        assert [record["epoch"] for record in read_metrics(run.metrics)] == [1, 2, 3]
        assert read_metrics(run.metrics)[0]["loss"] is None
        run.keep_metrics(2)
        assert run.metrics.read_text().count("\n") == 2


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, call: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: Any) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(rundir.os, call, fail)
    with pytest.raises(ResourceError) as caught:
        write_atomic(path, b"new")
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    assert tree(tmp_path) == {"file": b"old"}


def test_a_full_disk_is_exit_4(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from cctkit.rundir import write_atomic\n"
        "from cctkit.errors import ResourceError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_atomic(Path(sys.argv[1]), b'x' * 2000)\n"
        "except ResourceError as error:\n    sys.exit(error.exit_code)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    path = tmp_path / "file"
    path.write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 4
    assert tree(tmp_path) == {"file": b"old"}


def test_what_json_cannot_hold_becomes_null() -> None:
    assert finite({"a": [float("inf"), 1.0, {"b": float("nan")}], "c": (2,)}) == {"a": [None, 1.0, {"b": None}], "c": [2]}


def test_a_default_name_is_safe_and_free(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5)
    path = default_name("my \x1b data/set", "cct_2_3x2", now, tmp_path)
    assert path == tmp_path / "my_data_set-cct_2_3x2-20260102-030405"
    path.mkdir()
    assert default_name("my \x1b data/set", "cct_2_3x2", now, tmp_path).name.endswith("-1")


def test_the_newest_finished_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        newest_run(tmp_path)
    for i, name in enumerate(("b", "a", "unfinished")):
        with RunDir.create(tmp_path / name) as run:
            run.write_json(run.config, {})
            os.utime(run.config, (i, i))
            if name != "unfinished":
                run.weights.write_bytes(b"")
    assert newest_run(tmp_path).name == "a"
