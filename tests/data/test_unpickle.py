"""The pickles of CIFAR's batches are read without executing code."""

import contextlib
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cctkit.data.sources.cifar import unpickle
from cctkit.errors import UserError
from tests.data.python2 import python2_file

DATA = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
LABELS = [2, 1, 0] * 2


def test_a_batch_is_read_as_python_and_numpy_read_it() -> None:
    data = python2_file({"data": DATA, "fine_labels": LABELS, "batch_label": "testing batch 1 of 1"})
    theirs, ours = pickle.loads(data, encoding="bytes"), unpickle(data, "x")
    assert np.array_equal(theirs.pop(b"data").reshape(-1), np.frombuffer(ours.pop(b"data").data, dtype=np.uint8))
    assert ours == theirs == {b"fine_labels": LABELS, b"batch_label": b"testing batch 1 of 1"}


class Exploit:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


@pytest.mark.parametrize("payload", [Exploit(), {"data": Exploit()}, [1, 2], "text", open, np.zeros(3, dtype=object)])
def test_a_pickle_of_anything_else_is_refused_and_runs_nothing(payload: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="not a CIFAR batch"):
        unpickle(pickle.dumps(payload), "x")
    assert capsys.readouterr().out == ""


@settings(max_examples=200, deadline=None)
@given(position=st.floats(0, 1), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_batch_is_an_error_or_a_dictionary(position: float, value: int, cut: bool) -> None:
    data = bytearray(python2_file({"data": DATA[:1, :20], "labels": [1]}))
    place = int(position * (len(data) - 1))
    if cut:
        del data[place:]
    else:
        data[place] ^= value
    with contextlib.suppress(UserError):
        assert isinstance(unpickle(bytes(data), "x"), dict)


GIGABYTES = {
    "place in the memo": b"\x80\x02}r\xff\xff\xff\x7f(K\x01",  # 2,147,483,647, then torn
    "bytearray": b"\x80\x02\x96" + (2**33).to_bytes(8, "little") + b"x.",
}


@pytest.mark.parametrize("asked", GIGABYTES)
def test_a_pickle_that_asks_for_gigabytes_is_refused(asked: str) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="not a CIFAR batch"):
        unpickle(GIGABYTES[asked], "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20  # kB
