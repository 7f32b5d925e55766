"""Files gone wrong, for tests that nothing but an error of the user's comes of them."""

import json
import os
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cctkit.errors import UserError

MANY = settings(
    max_examples=int(os.environ.get("CCTKIT_MUTANTS", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

_PLACE = "\x00here"
# JSON texts of the wrong type, out of every range, or not even JSON; Python's reader takes NaN and what is infinite.
JUNK = (
    *("null", "true", "0", "-1", "2", "0.5", "-0.0", "1e-320", "1e30", "1e999", "NaN", "-Infinity", "1" + "0" * 30),
    *("1" + "0" * 400, "1" + "0" * 5000, '""', '"x"', '"\\u0000"', '"\\ud800"', '"\\u001b[31m\\n"', '"' + "x" * 5000 + '"'),
    *("[]", "[[]]", "[1, 2]", '["x"]', "{}", '{"": null}', "[" * 500 + "]" * 500, "[" * 100_000, "nul", "'x'"),
)


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [before, *(place for key, item in inner for place in places(item, (*before, key)))]


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = changed(value[place[0]], place[1:], new)
    return copy


def mutated_json(document: Any) -> st.SearchStrategy[bytes]:
    """`document` with one value replaced by junk, or removed; or any damage to its bytes."""
    text = json.dumps(document)

    def with_junk(place: tuple[Any, ...], junk: str) -> bytes:
        return json.dumps(changed(document, place, _PLACE)).replace(json.dumps(_PLACE), junk).encode()

    def without(place: tuple[Any, ...]) -> bytes:
        inner = document
        for key in place[:-1]:
            inner = inner[key]
        rest = {k: v for k, v in inner.items() if k != place[-1]} if isinstance(inner, dict) else inner[:-1]
        return json.dumps(changed(document, place[:-1], rest)).encode()

    found = places(document)
    return (
        st.builds(with_junk, st.sampled_from(found), st.sampled_from(JUNK))
        | st.sampled_from(found[1:]).map(without)
        | mutated_bytes(text.encode())
    )


def mutated_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` cut off, with some bytes changed, with more behind, or with another number in its first eight bytes."""
    flips = st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), min_size=1, max_size=4)

    def flipped(changes: list[tuple[int, int]]) -> bytes:
        copy = bytearray(data)
        for position, byte in changes:
            copy[position] = byte
        return bytes(copy)

    lies = st.sampled_from((0, 1, 8, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
    return (
        st.integers(0, len(data) - 1).map(lambda size: data[:size])
        | flips.map(flipped)
        | st.binary(min_size=1, max_size=20).map(lambda more: data + more)
        | lies.map(lambda number: struct.pack("<Q", number) + data[8:])
    )


def refused_or_read(read: Callable[[], object]) -> None:
    """Whatever `read` raises but an error of the user's, in printable words, fails the test."""
    try:
        read()
    except UserError as error:
        if not str(error).isprintable():
            raise AssertionError(repr(str(error))) from error
