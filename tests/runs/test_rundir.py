"""The run directory: one writer, nothing overwritten, writes that are whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cctkit.errors import DiskError, InUseError, UserError
from cctkit.runs import rundir
from cctkit.runs.paths import default_name, newest_run
from cctkit.runs.rundir import RunDir
from cctkit.runs.runfiles import read_metrics


def tree(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".cctkit.lock")
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


def test_discarding_removes_nothing_but_what_the_run_wrote(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "made" / "run")
    run.write_json(run.config, {})
    for name in ("notes.tmp", "env.json"):
        (run.path / name).write_text("mine")
    run.discard()
    assert tree(tmp_path) == {"made/run/notes.tmp": b"mine", "made/run/env.json": b"mine"}
    (tmp_path / "mine").mkdir()
    RunDir.create(tmp_path / "mine" / "run").discard()
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("name", ["env.json", ".env.json.1.tmp", "notes.tmp", "config.json", "checkpoints"])
def test_a_directory_with_anything_of_the_users_is_refused_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="nothing is overwritten"):
        RunDir.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no lock either
    assert (tmp_path / name).read_text() == "mine"


def test_what_a_start_left_that_was_killed_before_it_began_is_taken_over(tmp_path: Path) -> None:
    killed = RunDir.create(tmp_path / "run")
    killed.write_file(killed.seen, b"")
    killed.write_json(killed.env, {})
    for name in (".config.json.123.tmp", ".seen.safetensors.123.tmp", ".seeds.json.0123abcd-123.tmp"):
        (killed.path / name).write_text("{")
    killed.close()
    (killed.path / ".cctkit.lock").touch()  # some versions of filelock remove it when they are asked to release
    RunDir.create(tmp_path / "run").discard()
    assert list((tmp_path / "run").iterdir()) == []
    begun = RunDir.create(tmp_path / "run")
    begun.write_json(begun.config, {})
    begun.close()
    with pytest.raises(UserError, match="nothing is overwritten"):
        RunDir.create(tmp_path / "run")


@pytest.mark.parametrize("there", [True, False])
def test_a_start_that_is_overtaken_by_a_whole_run_does_not_take_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    path, real = tmp_path / "run", rundir._locked
    if there:
        path.mkdir()

    def overtaken(folder: Path) -> Any:
        monkeypatch.setattr(rundir, "_locked", real)
        with RunDir.create(path) as other:
            other.write_json(other.config, {"other": 1})
        return real(folder)

    monkeypatch.setattr(rundir, "_locked", overtaken)
    with pytest.raises(UserError, match="nothing is overwritten") as caught:
        RunDir.create(path)
    assert caught.value.exit_code == 2
    assert '"other": 1' in (path / "config.json").read_text()


def test_a_lock_file_removed_while_waiting_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start opens the lock of another, which discards its run before the lock is tried. Fails with filelock 3.20.3."""
    (tmp_path / "run").mkdir()
    first, real = RunDir.create(tmp_path / "run"), fcntl.flock

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        first.discard()
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InUseError):
        RunDir.create(tmp_path / "run")
    RunDir.create(tmp_path / "run").close()


RACES = int(os.environ.get("CCTKIT_RACES", "50"))
RACER = """
import sys
from pathlib import Path
from cctkit.errors import UserError
from cctkit.runs.rundir import RunDir
for race in range(int(sys.argv[3])):
    print("ready", flush=True)
    sys.stdin.readline()
    run, code = None, 0
    try:
        run = RunDir.create(Path(sys.argv[1]) / str(race))
        run.write_json(run.config, {"winner": sys.argv[2]})
    except UserError as error:
        code = error.exit_code
    print(code, flush=True)
    sys.stdin.readline()
    if run is not None:
        run.close()
"""


def test_of_several_starts_at_once_one_wins_and_the_others_exit_5_and_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    with contextlib.ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen([*command, str(i), str(RACES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for i in range(3)
        ]

        def answers() -> list[str]:
            return [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]

        def go() -> None:
            for racer in racers:
                assert racer.stdin is not None
                print(file=racer.stdin, flush=True)

        for race in range(RACES):
            assert answers() == ["ready"] * 3
            go()
            codes = answers()
            assert sorted(codes) == ["0", "5", "5"]
            names = {path.name for path in (tmp_path / str(race)).iterdir()}
            assert names == {"config.json", ".cctkit.lock"}
            assert f'"{codes.index("0")}"' in (tmp_path / str(race) / "config.json").read_text()
            go()


def test_a_run_that_is_held_exits_5_and_is_free_at_once_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    code = "import sys, time; from pathlib import Path; from cctkit.runs.rundir import RunDir\n"
    code += "r = RunDir.create(Path(sys.argv[1])); r.write_json(r.config, {}); print(1, flush=True); time.sleep(600)"
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
    RunDir.open(path).close()


def test_the_lock_of_a_killed_holder_is_free_though_its_workers_live_on(tmp_path: Path) -> None:
    """Fails with filelock 3.29, whose lock a forked process keeps."""
    code = (
        "import os, sys, time; from pathlib import Path; from cctkit.runs.rundir import RunDir\n"
        "r = RunDir.create(Path(sys.argv[1])); r.write_json(r.config, {}); worker = os.fork()\n"
        "if not worker:\n    print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        holder.kill()
        holder.wait()
        try:
            RunDir.open(tmp_path / "run").close()
        finally:
            os.kill(worker, signal.SIGKILL)


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
        with pytest.raises(UserError, match=r"metrics\.jsonl has 2 epochs, expected 3"):
            run.keep_metrics(3)
        assert run.metrics.read_text().count("\n") == 2


def test_a_full_disk_before_the_lock_is_exit_4_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place, name, words in (
        (Path, "mkdir", "create the run directory"),
        (rundir.FileLock, "acquire", "lock the run directory"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(DiskError, match=f"cannot {words}: No space left") as caught:
                RunDir.create(tmp_path / "runs" / "new")
        assert caught.value.exit_code == 4
        assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_text_or_control_a_terminal_are_written_as_json_escapes(tmp_path: Path) -> None:
    names = ["caf\udce9", "\x1b[31m", "\x9b", "user\u202egnp", "Übergröße"]
    with RunDir.create(tmp_path / "run") as run:
        run.write_json(run.result, names)
    text = run.result.read_bytes().decode()
    assert json.loads(text) == names
    assert "Übergröße" in text
    assert text.replace("\n", "").isprintable()


def test_a_default_name_is_safe_and_free(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5)
    path = default_name("my \x1b data/set", "cct_2_3x2", now, tmp_path)
    assert path == tmp_path / "my_data_set-cct_2_3x2-20260102-030405"
    path.mkdir()
    assert default_name("my \x1b data/set", "cct_2_3x2", now, tmp_path).name.endswith("-1")


def test_the_newest_run_with_weights_is_found_finished_or_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run with weights"):
        newest_run(tmp_path)
    for i, name in enumerate(("finished", "a", "without weights")):
        with RunDir.create(tmp_path / name) as run:
            run.write_json(run.config, {})
            os.utime(run.config, (i, i))
            if name != "without weights":
                run.weights.write_bytes(b"")
            if name == "finished":
                run.write_json(run.result, {})
    assert newest_run(tmp_path).name == "a"


def test_a_run_without_its_settings_is_not_the_newest(tmp_path: Path) -> None:
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="no run with weights"):
        newest_run(tmp_path)


def test_a_file_name_that_is_no_text_comes_back_from_json(tmp_path: Path) -> None:
    values = {"dataset": os.fsdecode(b"caf\xe9"), "é": "猫"}
    with RunDir.create(tmp_path / "run") as run:
        run.write_json(run.config, values)
        assert json.loads(run.config.read_bytes()) == values
        assert "猫" in run.config.read_text(encoding="utf-8")
