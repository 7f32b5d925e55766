"""SIGINT and SIGTERM as a request to stop: the work in hand is finished, saved, and left with exit code 130 or 143."""

import signal
from types import FrameType, TracebackType

from cctkit.errors import StoppedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context in which the first signal only sets `signal_number`; a second one stops the program at once.

    launched: the signal comes twice by itself, to the process group and from the launcher, which kills after 30 s.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.launched = launched
        self.signal_number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
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
