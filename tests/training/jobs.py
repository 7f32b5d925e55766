"""Jobs of several ranks, started by torchrun: for the tests, and for `benchmarks/ranks.py`."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def launch(ranks: int, *arguments: str | Path, restarts: int = 0) -> subprocess.Popen[str]:
    """torchrun with so many ranks of one thread each."""
    command = [*TORCHRUN, "--nproc-per-node", str(ranks), "--max-restarts", str(restarts), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], *, timeout_s: float = 120) -> tuple[str, str]:
    """What a job that has to succeed has printed, on stdout and on stderr."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    return out, err


def worker(launcher: int, *, rank: int) -> int:
    """The process of a rank, by that of its torchrun."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(child) for child in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes())


def until(true: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(path: Path) -> list[dict[str, Any]]:
    """The epochs of a run, without what depends on the clock."""
    clock = {"images_per_s", "input_percent", "train_seconds"}
    text = (path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in text]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
