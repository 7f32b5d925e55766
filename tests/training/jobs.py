"""Jobs of several ranks, forked, which start faster than those of torchrun."""

import contextlib
import random
import socket
from pathlib import Path

from benchmarks.jobs import PATIENCE_S
from tests.processes import Forked


def _free_port() -> int:
    """A port below those that the system gives to connections, of which one could take it before the first rank does."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


class ForkedJob:
    """So many ranks with the environment that torchrun gives them, and no torchrun: `python -m MODULE ARGUMENTS` each."""

    def __init__(self, ranks: int, *arguments: str | Path, module: str = "cctkit", **variables: str) -> None:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RESTART_COUNT": "0"}
        own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        self.ranks = [Forked(*arguments, module=module, **variables, **address, **sizes, **each) for each in own]

    def communicate(self, *, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """What all ranks have printed, on stdout and on stderr."""
        printed = [rank.communicate(timeout=timeout) for rank in self.ranks]
        return "".join(out for out, _ in printed), "".join(err for _, err in printed)

    @property
    def returncode(self) -> int | None:
        """Of the first rank that failed, or 0."""
        return next((rank.returncode for rank in self.ranks if rank.returncode), 0)
