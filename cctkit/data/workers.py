"""What the processes that packing and the loader start have in common."""

import contextlib
import os
import signal
import sys

from cctkit.data.preprocess import share_large


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def start_worker(large: contextlib.AbstractContextManager[object]) -> None:
    """Initialize a worker process: it leaves signals to the process group (Ctrl-C, `timeout`) to its parent.

    On SIGTERM it exits normally: if a loader worker died of the signal, the trainer would raise before saving.
    large: the lock under which all processes decode large images.
    """
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    share_large(large)
