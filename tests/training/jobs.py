"""Jobs of several ranks, started by torchrun or forked: for the tests, and for `benchmarks/ranks.py`."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.processes import PATIENCE_S, Forked

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def launch(ranks: int, *arguments: str | Path, restarts: int = 0) -> subprocess.Popen[str]:
    """torchrun with so many ranks of one thread each."""
    command = [*TORCHRUN, "--nproc-per-node", str(ranks), "--max-restarts", str(restarts), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


class ForkedJob:
    """So many ranks with the environment that torchrun gives them, and no torchrun: `python -m MODULE ARGUMENTS` each."""

    def __init__(self, ranks: int, *arguments: str | Path, module: str = "cctkit") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RESTART_COUNT": "0"}
        own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        self.ranks = [Forked(*arguments, module=module, **address, **sizes, **each) for each in own]

    def communicate(self, *, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """What all ranks have printed, on stdout and on stderr."""
        printed = [rank.communicate(timeout=timeout) for rank in self.ranks]
        return "".join(out for out, _ in printed), "".join(err for _, err in printed)

    @property
    def returncode(self) -> int | None:
        """Of the first rank that failed, or 0."""
        return next((rank.returncode for rank in self.ranks if rank.returncode), 0)


def finish(job: "subprocess.Popen[str] | ForkedJob", *, timeout_s: float = PATIENCE_S) -> tuple[str, str]:
    """What a job that has to succeed has printed, on stdout and on stderr."""
    out, err = job.communicate(timeout=timeout_s)
    assert job.returncode == 0, err
    return out, err


def worker(launcher: int, *, rank: int) -> int:
    """The process of a rank, by that of its torchrun."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(child) for child in children if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes())


def lines(path: Path) -> list[dict[str, Any]]:
    """The epochs of a run, without what depends on the clock."""
    clock = {"images_per_s", "input_percent", "train_seconds"}
    text = (path / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in clock} for line in text]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
