"""One attempt to hurt a reader: what came of it, how long it took, how much memory."""

import contextlib
import ctypes
import dataclasses
import hashlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch

from cctkit.data.source import BadImageError
from cctkit.errors import UserError

LONGEST_S = 10.0
"""Of CPU time that one attempt may take, which does not depend on what else the machine does."""
_LONGEST_WAIT_S = 600.0  # of time, for what waits and does not compute
MOST_BYTES = 2**30
"""Of memory that one attempt may take."""
_BACKSTOP = 4 * 2**30  # of this many bytes the machine itself is asked to refuse more

Outcome = Literal["refused", "equal", "other", "failed"]
"""Refused: with an error of the user's. Equal: read, with the original's results. Other: read, with other results."""


@dataclass(kw_only=True)
class Tally:
    """What came of many attempts. repeat: the command that repeats a failed one."""

    promise: int
    what: str
    guard: str
    seed: int
    counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(("refused", "equal", "other", "failed"), 0))
    failures: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, why: str = "", *, of: str = "") -> None:
        self.counts[outcome] += 1
        if outcome == "failed":
            self.failures.append(f"{of}: {why}")

    @property
    def tried(self) -> int:
        return sum(self.counts.values())

    @property
    def survived(self) -> int:
        return self.tried - self.counts["failed"]


@dataclass(frozen=True)
class Unverified:
    """Results that the reader tells the user it could not verify, as of a file without a digest."""

    value: object


class HungError(BaseException):
    """Raised into what takes too long; no `except Exception` catches it."""


def attempt(read: Callable[[], object], expected: str, *, has_digest: bool) -> tuple[Outcome, str]:
    """What comes of `read`, which returns its results, and why it failed.

    expected: the original's results, by `results_of`.
    has_digest: whether the format can tell damage, so that other results are a failure.
    """
    start_s = time.process_time()
    with limits() as memory:
        try:
            found = read()
            told = isinstance(found, Unverified)
            is_equal = results_of(found.value if isinstance(found, Unverified) else found) == expected
        except HungError:
            return "failed", f"it hangs, after {LONGEST_S:.0f} s"
        except (UserError, BadImageError) as error:
            outcome, why = _refused(error)
        except Exception as error:  # what else a reader raises is the failure that is looked for
            outcome, why = "failed", f"{type(error).__name__}: {str(error)[:200]!r}"
        else:
            outcome = "equal" if is_equal else "failed" if has_digest and not told else "other"
            why = "accepted with other results" if outcome == "failed" else ""
    if memory.grown() > MOST_BYTES:
        return "failed", f"it takes {memory.grown() / 2**20:,.0f} MB"
    if (seconds := time.process_time() - start_s) > LONGEST_S:
        return "failed", f"it takes {seconds:.0f} s"
    return outcome, why


def _refused(error: Exception) -> tuple[Outcome, str]:
    """A refusal has to be readable: no control characters, nothing of megabytes."""
    text = str(error)
    if not text.isprintable() or len(text) > 3000:
        return "failed", f"its message cannot be printed: {text[:200]!r}"
    return "refused", ""


class Memory:
    """The peak of this process's memory since it was made (Linux; elsewhere nothing is measured)."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # what was freed before would be taken first, and not be seen
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._before = _status("VmRSS")

    def grown(self) -> int:
        return _status("VmHWM") - self._before


def _status(name: str) -> int:
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
    return 0


@contextlib.contextmanager
def limits() -> Iterator[Memory]:
    """Interrupt what computes longer than `LONGEST_S` or waits for minutes; refuse gigabytes before the machine lacks them."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise HungError

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, LONGEST_S), signal.SIGALRM: (signal.ITIMER_REAL, _LONGEST_WAIT_S)}
    before = {number: signal.signal(number, interrupt) for number in timers}
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + _BACKSTOP, hard))
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield Memory()
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def results_of(value: object) -> str:
    """A digest of all values within `value`, to the bit."""
    with _deep_recursion():  # of ours, not of the reader
        return hashlib.sha256(repr(_plain(value)).encode("utf-8", "backslashreplace")).hexdigest()


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 20_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _plain(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()), value.dtype, tuple(value.shape)
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(each.name, _plain(getattr(value, each.name))) for each in dataclasses.fields(value) if each.name != "digest"]
    if isinstance(value, Mapping):
        return sorted(((repr(key), _plain(item)) for key, item in value.items()), key=lambda pair: pair[0])
    if isinstance(value, (list, tuple)) and not isinstance(value, os.stat_result):
        return [_plain(item) for item in value]
    return value
