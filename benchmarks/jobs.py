"""Starts torchrun jobs and reads what they write: for `benchmarks/ranks.py` and the tests."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

PATIENCE_S = 600  # far more than any wait takes, even on a busy machine
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


class Job(Protocol):
    """The part of `subprocess.Popen` that `finish` needs."""

    @property
    def returncode(self) -> int | None: ...

    def communicate(self, *, timeout: float) -> tuple[str, str]: ...


def until(true: Callable[[], object], *, timeout_s: float = PATIENCE_S) -> None:
    """Wait until `true()` is true."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not true after {timeout_s} s"
        time.sleep(0.005)


def launch(ranks: int, *arguments: str | Path, restarts: int = 0, **variables: str) -> subprocess.Popen[str]:
    """torchrun with `ranks` processes of one thread each; variables: of the environment."""
    command = [*TORCHRUN, "--nproc-per-node", str(ranks), "--max-restarts", str(restarts), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(job: Job, *, timeout_s: float = PATIENCE_S) -> tuple[str, str]:
    """stdout and stderr of a job; AssertionError if it fails."""
    out, err = job.communicate(timeout=timeout_s)
    assert job.returncode == 0, err
    return out, err


def worker(launcher: int, *, rank: int) -> int:
    """The process ID of a rank, from that of torchrun."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(child) for child in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes())


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a run's epochs, without the values that depend on the clock."""
    clock = {"images_per_s", "input_percent", "train_seconds"}
    text = (path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in text]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
