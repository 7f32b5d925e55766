"""SIGINT, SIGTERM and SIGHUP as a request to stop: finish the current step, save, and exit with 128 + the signal."""

import signal
from types import FrameType, TracebackType

from cctkit.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on Windows


class StopRequest:
    """A context in which the first signal only sets `signal_number`; a second one stops the program at once.

    SIGHUP counts unless it was ignored at the start, as `nohup` does. It never counts as the second signal: a closing terminal
    sends it twice, and the end of a session sends it after SIGTERM.

    launched: under torchrun a signal arrives twice, from the process group and from the launcher, so that a second one is
        ignored; the launcher kills after 30 s.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.launched = launched
        self.signal_number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        handled = list(_SIGNALS)
        if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
            handled.append(_HANGUP)
        self._before = {number: signal.signal(number, self._receive) for number in handled}
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
        """Stop now if asked to, if there is nothing to save.

        Raises: StoppedError.
        """
        if self.signal_number is not None:
            raise StoppedError(self.signal_number)
