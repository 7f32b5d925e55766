"""Files are written atomically, and no temporary files remain."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cctkit import files
from cctkit.errors import DiskError, ResourceError
from cctkit.files import full_disk_named, write_atomic


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, call: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: Any) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(ResourceError) as caught:
        write_atomic(path, b"new")
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    assert tree(tmp_path) == {"file": b"old"}


def test_files_are_written_even_if_directories_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", refused)
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_exit_4(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from cctkit.files import write_atomic\n"
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


# A writer that stops when its temporary file is written, and before that has its name.
WRITER = """
import os, sys, time
from pathlib import Path
from cctkit.files import write_atomic

def wait(*_):
    print("written", flush=True)
    time.sleep(600)

os.replace = wait
write_atomic(Path(sys.argv[1]), b"half")
"""


def test_a_write_removes_temporary_files_of_dead_processes_only(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "one")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    (left,) = tmp_path.iterdir()
    write_atomic(tmp_path / "other", b"new")
    assert tree(tmp_path) == {left.name: b"half", "other": b"new"}
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    write_atomic(tmp_path / "other", b"newer")
    assert tree(tmp_path) == {"other": b"newer"}


def test_a_folder_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".card.{files._machine()}-{dead.pid}.tmp"
    left.mkdir()
    (left / "README.md").write_bytes(b"half")
    with files.new_folder(tmp_path / "card") as beside:
        assert not left.exists()
        files.write_synced(beside / "README.md", b"whole")
        assert not (tmp_path / "card").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["card"]
    assert (tmp_path / "card" / "README.md").read_bytes() == b"whole"


def test_processes_that_cannot_be_asked_count_as_dead_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, elsewhere = f".a.json.{files._machine()}-{dead.pid}.tmp", f".a.json.0123abcd-{dead.pid}.tmp"
    mine = (".notes.12.tmp", ".notes.tmp", "a.0123abcd-12.tmp", ".a.json.0123abcd-12.tmp.bak")

    def left(*, platform: str, age_s: float) -> set[str]:
        for name in (here, elsewhere, *mine):
            (tmp_path / name).write_bytes(b"")
            os.utime(tmp_path / name, (time.time() - age_s, time.time() - age_s))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", platform)
            write_atomic(tmp_path / "file", b"")
        return set(tree(tmp_path)) - {"file", *mine}

    assert left(platform="linux", age_s=3600) == {elsewhere}
    assert left(platform="win32", age_s=3600) == {here, elsewhere}
    assert left(platform="win32", age_s=25 * 3600) == set()
    assert set(mine) < set(tree(tmp_path))


@pytest.mark.parametrize("before", [True, False])
def test_the_error_says_intact_only_if_a_file_existed(tmp_path: Path, before: bool) -> None:
    if before:
        (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(DiskError) as caught, full_disk_named(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.what == "cannot write: No space left on device" + "; what was saved before is intact" * before
