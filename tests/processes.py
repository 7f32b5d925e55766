"""Commands in processes of their own that begin in milliseconds: forked from one that has imported what training needs.

`python -m cctkit` spends 4 s of a CPU on its imports, which most tests have no question about. What is forked has a process
ID, signals, a working directory, an environment and files for its output of its own, as a user's process has. It computes
with one thread, and nothing has been computed before the fork.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.jobs import PATIENCE_S

_SERVER = multiprocessing.get_context("forkserver")
_PRELOADED = [
    *("cctkit.cli.app", "cctkit.evaluation.source", "cctkit.training.run"),
    *(
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "matplotlib.style",
        "PIL.PngImagePlugin",
        "pydantic.type_adapter",
    ),
    *("rich.console", "rich.panel", "rich.table"),
    *("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "torchvision.transforms.v2"),
]
_SERVER.set_forkserver_preload(_PRELOADED)


def preload(*modules: str) -> None:
    """Import these modules too before the first process is forked."""
    _SERVER.set_forkserver_preload([*_PRELOADED, *modules])


class Forked:
    """A module run as `python -m` does, or code as `python -c` does; the interface is that of `subprocess.Popen`."""

    def __init__(
        self, *arguments: str | Path, module: str = "cctkit", code: str | None = None, cwd: Path | None = None, **variables: str
    ) -> None:
        self.args = [str(argument) for argument in arguments]
        self._files = []
        for _ in ("stdout", "stderr"):
            descriptor, path = tempfile.mkstemp()
            os.close(descriptor)
            self._files.append(Path(path))
        place = {"cwd": str(cwd or Path.cwd()), "environment": {**os.environ, **variables}, "files": self._files}
        self._process = _SERVER.Process(target=_run, args=(module, code, self.args), kwargs=place)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def errors(self) -> str:
        """What stands on stderr so far."""
        return self._files[1].read_text()

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, *, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """What it has printed, on stdout and on stderr, at its end."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout, stderr=self.errors())
        out, err = (path.read_text() for path in self._files)
        for path in self._files:
            path.unlink()
        return out, err


def forked(
    *arguments: str | Path, cwd: Path | None = None, check: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`cctkit` with these arguments, to its end; `check`: with exit code 0."""
    process = Forked(*arguments, cwd=cwd, **variables)
    out, err = process.communicate()
    assert process.returncode is not None
    if check:
        assert process.returncode == 0, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _run(
    module: str, code: str | None, arguments: list[str], *, cwd: str, environment: dict[str, str], files: list[Path]
) -> None:
    """In the forked process: become what was asked for."""
    import torch

    torch.set_num_threads(1)
    for number, path in enumerate(files, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module if code is None else "-c", *arguments]
    if code is None:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
