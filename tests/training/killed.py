"""`cctkit` of two ranks that is killed or stopped at a moment of its training, in place of `-m cctkit`: see MOMENTS."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cctkit.cli.app import main
from cctkit.training import checkpoint, loop

_write, _step = checkpoint.write_synced, loop.train_step
_written: list[str] = []


def _write_or_die(path: Path, data: bytes) -> None:
    """Both die in the third checkpoint: the first has then written all of its shards, and the second some."""
    _write(path, data)
    _written.append(path.name)
    if os.environ["RANK"] == "1" and _written.count("optimizer-1-of-2.safetensors") == 3:
        while not (path.parent / "progress-0-of-2.safetensors").exists():
            time.sleep(0.01)
        for pid in (int(path.parent.name.rpartition("-")[2]), os.getpid()):  # the first one's, whose directory it is
            os.kill(pid, signal.SIGKILL)


def _step_or_die(state: Any, *arguments: Any, **named: Any) -> Any:
    """The second dies before step 14; torchrun starts the job anew, and then it lives."""
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and int(state.step) == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return _step(state, *arguments, **named)


def _step_or_stop(state: Any, *arguments: Any, **named: Any) -> Any:
    """The first has torchrun told to stop before step 14, and trains on when that has reached it."""
    if os.environ["RANK"] == "0" and int(state.step) == 13:
        heard, handler = [], signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        signal.signal(signal.SIGTERM, lambda *of: (heard.append(of), handler(*of)))
        os.kill(os.getppid(), signal.SIGTERM)
        while not heard:
            time.sleep(0.01)
    return _step(state, *arguments, **named)


MOMENTS = {
    "saving": (checkpoint, "write_synced", _write_or_die),
    "training": (loop, "train_step", _step_or_die),
    "stopping": (loop, "train_step", _step_or_stop),
}

if __name__ == "__main__":
    setattr(*MOMENTS[sys.argv.pop(1)])
    main()
