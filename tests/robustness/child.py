"""`cctkit` in a forked process that dies, or sends itself a signal, at a file operation or in a call: see `Spec`."""

import functools
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from cctkit.cli.app import run
from cctkit.files import write_atomic
from tests.robustness.breaks import BREAKS
from tests.robustness.operations import Operation, Operations


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What becomes of the process.

    root: the folder in which file operations count.
    report: the file for a `Report`, written if the process ends by itself; of several ranks by the first.
    signals: sent by the process to itself, each when the one before has been received.
    sent: the file for the moment of the first one, in seconds of the monotonic clock, which is that of all processes.
    to_launcher: whether they are sent to torchrun instead, by the first of its ranks, which then waits until one is passed on.
    operation: before which file operation (from 1) they are sent; 0 for none.
    torn: the fraction of the bytes that are written before, if it is a write.
    call: in which call (from 1) of `place` they are sent; 0 for none.
    place: a function, as module:name or module:owner.name.
    settings: module:name -> value, set before it begins.
    waits_for: a file; the process begins when it is there, which it shows by another one, named after its process ID.
    holds_until: a file, for which that call of `place` waits in place of signals, and shows it in the same way.
    broken: what is broken on purpose, of BREAKS.
    draws: whether curves are drawn, which takes half of the time of a tiny run; else a few bytes are written in their place.
    """

    root: str
    report: str = ""
    signals: tuple[int, ...] = (signal.SIGKILL,)
    sent: str = ""
    to_launcher: bool = False
    operation: int = 0
    torn: float = 0.0
    call: int = 0
    place: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    waits_for: str = ""
    holds_until: str = ""
    broken: str = ""
    draws: bool = False

    def as_argument(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process has done: file operations (kind, path below the root), calls of `place`, CPU time of its main thread."""

    NAMES: ClassVar = ("operations", "calls", "cpu_s")
    operations: list[tuple[str, str]]
    calls: int
    cpu_s: float


def cpu_s(pid: int | str = "self") -> float:
    """The CPU time of the main thread of a process so far; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


def prepare(
    settings: dict[str, Any], *, draws: bool, broken: str = "", patch: Callable[[Any, str, Any], None] = setattr
) -> None:
    """Set values in modules of this process; see `Spec`."""
    if broken:
        BREAKS[broken](patch)
    for name, value in settings.items():
        module, attribute = name.split(":")
        patch(importlib.import_module(module), attribute, value)
    if not draws:
        from cctkit.training import result

        patch(result, "draw_curves", _undrawn)


def _undrawn(_: object, path: Path, **_named: object) -> None:
    write_atomic(path, b"no picture")


def _until(true: Callable[[], object]) -> None:
    """Wait until `true()` is true, for a minute: a build that is broken on purpose may never be."""
    deadline_s = time.monotonic() + 60
    while not true() and time.monotonic() < deadline_s:
        time.sleep(0.001)


class Sender:
    """Sends the signals of a process, once."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._file = os.open(spec.sent, os.O_WRONLY | os.O_CREAT) if spec.sent else None  # before operations count

    def send(self) -> None:
        if not self._spec.to_launcher:
            self._kill(os.getpid())
        elif os.environ["RANK"] == "0":
            heard: list[int] = []
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._hear(number, heard)
            self._kill(os.getppid())
            _until(lambda: heard)

    def _kill(self, pid: int) -> None:
        if self._file is not None:
            os.write(self._file, repr(time.monotonic()).encode())
        for position, number in enumerate(self._spec.signals):
            if position > 0:
                _until(lambda: signal.getsignal(signal.SIGINT) == signal.SIG_DFL)  # by the main thread, if this is another one
            os.kill(pid, number)

    @staticmethod
    def _hear(number: int, heard: list[int]) -> None:
        handler = signal.getsignal(number)
        assert callable(handler)

        def hear(received: int, frame: FrameType | None) -> None:
            heard.append(received)
            handler(received, frame)

        signal.signal(number, hear)


def main() -> int:
    spec = Spec(**json.loads(sys.argv.pop(1)))
    calls, sender = [0], Sender(spec)

    def before(number: int, operation: Operation, write: Callable[[int], None]) -> None:
        if number == spec.operation:
            write(int(spec.torn * len(operation.data)))
            sender.send()

    if spec.place:
        _count(spec, calls, sender)
    prepare(spec.settings, draws=spec.draws, broken=spec.broken)
    if spec.waits_for:
        _wait_for(spec.waits_for)
    with Operations(Path(spec.root), before) as operations:
        code = run(sys.argv[1:])
    if spec.report and os.environ.get("RANK", "0") == "0":
        report = Report(operations=[_told(each, operations.root) for each in operations.seen], calls=calls[0], cpu_s=cpu_s())
        Path(spec.report).write_text(json.dumps(asdict(report)))
    return code


def _told(operation: Operation, root: str) -> tuple[str, str]:
    return operation.kind, os.path.relpath(operation.path, root)


def _wait_for(path: str) -> None:
    os.close(os.open(f"{path}.{os.getpid()}", os.O_WRONLY | os.O_CREAT))
    while not os.path.exists(path):
        time.sleep(0.001)


def _count(spec: Spec, calls: list[int], sender: Sender) -> None:
    """Count the calls of the place, and send the signals in one of them."""
    module, name = spec.place.split(":")
    place = importlib.import_module(module)
    *owners, name = name.split(".")
    owner: Any = functools.reduce(getattr, owners, place)
    real, pid = getattr(owner, name), os.getpid()

    def called(*arguments: Any, **named: Any) -> Any:
        if os.getpid() == pid:
            calls[0] += 1
            if calls[0] == spec.call and spec.holds_until:
                _wait_for(spec.holds_until)
            elif calls[0] == spec.call:
                sender.send()
        return real(*arguments, **named)

    setattr(owner, name, called)


if __name__ == "__main__":
    sys.exit(main())
