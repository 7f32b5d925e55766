"""Which signals ask to stop, which stop at once, and that all is as before afterwards."""

import os
import signal
from collections.abc import Iterator

import pytest

from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """The signals that reach the handlers from before."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda each, _: numbers.append(each)) for number in (INT, TERM, HUP)}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(INT, 130), (TERM, 143), (HUP, 129)])
def test_the_first_signal_asks_to_stop(number: int, code: int, heard: list[int]) -> None:
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(StoppedError) as caught:
            stop.check()
    assert caught.value.exit_code == code
    assert heard == []
    os.kill(os.getpid(), number)
    assert heard == [number]


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(HUP, signal.SIG_IGN)  # as nohup does
    with StopRequest() as stop:
        os.kill(os.getpid(), HUP)
        stop.check()
        os.kill(os.getpid(), TERM)
        assert stop.signal_number == TERM
        assert signal.getsignal(HUP) is signal.SIG_IGN


@pytest.mark.parametrize("first", [INT, TERM, HUP])
def test_a_second_signal_stops_at_once_unless_it_is_a_hangup(first: int) -> None:
    """A closed terminal sends SIGHUP twice; the end of a session sends it after SIGTERM."""
    with StopRequest() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), HUP)
        os.kill(os.getpid(), HUP)
        assert stop.signal_number == first
        assert [signal.getsignal(number) for number in (INT, TERM)] == [signal.SIG_DFL, signal.SIG_DFL]


def test_under_a_launcher_every_signal_may_come_twice() -> None:
    with StopRequest(launched=True) as stop:
        for number in (TERM, TERM, HUP, INT):
            os.kill(os.getpid(), number)
        assert stop.signal_number == TERM
