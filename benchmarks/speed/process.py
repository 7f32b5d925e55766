"""The other end of a worker: asks it for a turn and waits for the answer."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from cctkit.errors import ResourceError, UserError

ROOT = Path(__file__).parents[2]
_SAID = 2000  # characters of a failed worker's last words


def command(kind: str) -> list[str]:
    """How a worker is started."""
    return [sys.executable, "-P", "-m", "benchmarks.speed.worker", kind]


class Worker:
    """A process of its own that measures `plain`, `ours` or the `floor`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            command(kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

    def ask(self, what: str, /, **options: Any) -> Any:
        """The worker's answer.

        Raises: UserError or ResourceError as the worker met it, ResourceError where it was killed; RuntimeError with its
        traceback where it failed.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps([what, options]) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._failure(what)
        answer, error = json.loads(line)
        if error is not None:
            words, where, remedy, is_resource = error
            raise (ResourceError if is_resource else UserError)(words, where or f"the {self.kind} process", remedy)
        return answer

    def _failure(self, what: str) -> Exception:
        code = self.process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace")[-_SAID:]
        if code < 0:
            return ResourceError(
                f"the {self.kind} process was killed by signal {-code} while asked for {what!r}; mostly that is memory",
                "bench",
                "a smaller --batch-size",
            )
        return RuntimeError(f"the {self.kind} process failed with exit code {code} while asked for {what!r}:\n{said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.communicate()
        self._stderr.close()
