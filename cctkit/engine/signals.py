"""SIGINT, SIGTERM and SIGHUP as a request to stop: the work in hand is finished, saved, and left with 128 + the signal."""

import signal
from types import FrameType, TracebackType

from cctkit.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # which Windows has not


class StopRequest:
    """A context in which the first signal only sets `signal_number`; a second one stops the program at once.

    SIGHUP is heeded unless it was ignored at the start, as by `nohup`. It never is that second signal: a terminal that closes
    sends it twice, and the end of a session sends it after SIGTERM.

    launched: the signal comes twice by itself, to the process group and from the launcher, which kills after 30 s.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.launched = launched
        self.signal_number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        heeded = list(_SIGNALS)
        if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
            heeded.append(_HANGUP)
        self._before = {number: signal.signal(number, self._receive) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number = number
        if not self.launched:
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_DFL)

    def check(self) -> None:
        """Where there is nothing to save: stop now if asked to.

        Raises: StoppedError.
        """
        if self.signal_number is not None:
            raise StoppedError(self.signal_number)
