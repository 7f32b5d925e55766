"""Spoils files: each mutant is a function of the original and of a generator, which is seeded by whoever wants it again."""

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from tests.mutants import JUNK, changed, places

Mutate = Callable[[random.Random, bytes], bytes]

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_NUMBERS = ("0", "-1", "1", "9" * 30, "1e308", "-1e308", "1e999", "NaN", "Infinity", "0.5", str(2**63), str(-(2**63)), "1e-320")
_NUMBER = re.compile(rb"(?<![\w.])-?\d+(\.\d+)?([eE][-+]?\d+)?")
_DEEP = 100_000


def of_bytes(rng: random.Random, data: bytes) -> bytes:
    """Any file: bits flipped, cut off, bytes put in, taken out or moved, numbers changed where a length may be."""
    return rng.choice(_BYTE_EDITS)(rng, data)


def _flipped(rng: random.Random, data: bytes) -> bytes:
    copy = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        copy[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(copy)


def _overwritten(rng: random.Random, data: bytes) -> bytes:
    copy = bytearray(data)
    start = _place(rng, data)
    new = rng.randbytes(rng.choice((1, 2, 4, 16, 256)))[: len(data) - start]
    copy[start : start + len(new)] = new
    return bytes(copy)


def _zeroed(rng: random.Random, data: bytes) -> bytes:
    start, stop = _range(rng, data)
    return data[:start] + bytes(stop - start) + data[stop:]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _longer(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice((b"\0", rng.randbytes(20), bytes(4096), data))


def _inserted(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice((b"\0", b"\xff", rng.randbytes(4), rng.randbytes(64))) + data[at:]


def _spliced(rng: random.Random, data: bytes) -> bytes:
    """A piece of the file a second time, in place of what stands elsewhere or before it."""
    (start, stop), at = _range(rng, data), _place(rng, data)
    return data[:at] + data[start:stop] + data[at + rng.choice((0, stop - start)) :]


def _removed(rng: random.Random, data: bytes) -> bytes:
    start, stop = _range(rng, data)
    return data[:start] + data[stop:]


def _swapped(rng: random.Random, data: bytes) -> bytes:
    a, b, c = sorted(_place(rng, data) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _another_length(rng: random.Random, data: bytes) -> bytes:
    """A number of 1 to 8 bytes, in either order, is 0, one more, or as large as it can be."""
    form = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    if len(data) < size:
        return _longer(rng, data)
    at = min(_place(rng, data), len(data) - size)
    (value,) = struct.unpack_from(form, data, at)
    new = rng.choice((*_EXTREMES, value + 1, value - 1, 2 * value, len(data), value ^ (1 << rng.randrange(8 * size))))
    return data[:at] + struct.pack(form, new % 256**size) + data[at + size :]


_BYTE_EDITS: Sequence[Mutate] = (
    *(_flipped, _flipped, _overwritten, _zeroed, _cut, _longer, _inserted, _spliced, _removed, _swapped),
    *(_another_length, _another_length),
)


def _place(rng: random.Random, data: bytes) -> int:
    """Somewhere in the file, half of the time near its start or end, where formats keep what steers the reader."""
    near = min(len(data), 200)
    anywhere = rng.randrange(len(data))
    return rng.choice((anywhere, anywhere, rng.randrange(near), len(data) - rng.randint(1, near)))


def _range(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + rng.choice((1, 2, 8, 64, 512, len(data) // 4 + 1)))


def of_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON document with one value, key or character changed, a key twice, or lists without end."""
    document = json.loads(data)
    edit = rng.randrange(8)
    if edit == 0:
        return of_bytes(rng, data)
    if edit == 1:
        return _number_changed(rng, data)
    where = places(document)
    if edit == 2 and len(where) > 1:
        return json.dumps(_without(document, rng.choice(where[1:]))).encode()
    if edit == 3:
        return _key_twice(rng, document)
    if edit == 4 and len(where) > 2:
        a, b = rng.sample(where[1:], 2)
        if a[: len(b)] != b and b[: len(a)] != a:  # neither is in the other
            return json.dumps(changed(changed(document, a, _at(document, b)), b, _at(document, a))).encode()
    return _with(document, rng.choice(where), rng.choice((*JUNK, *_NUMBERS, "[" * _DEEP, '{"a":' * _DEEP)))


def _at(document: Any, place: Sequence[Any]) -> Any:
    for key in place:
        document = document[key]
    return document


def _with(document: Any, place: tuple[Any, ...], text: str) -> bytes:
    mark = "\x00here"
    return json.dumps(changed(document, place, mark)).replace(json.dumps(mark), text).encode()


def _without(document: Any, place: tuple[Any, ...]) -> Any:
    inner = _at(document, place[:-1])
    key = place[-1]
    rest = {k: v for k, v in inner.items() if k != key} if isinstance(inner, dict) else [*inner[:key], *inner[key + 1 :]]
    return changed(document, place[:-1], rest)


def _key_twice(rng: random.Random, document: Any) -> bytes:
    """One key of an object a second time, with another value, before or behind the first."""
    objects = [(place, _at(document, place)) for place in places(document)]
    filled = [(place, found) for place, found in objects if isinstance(found, dict) and found]
    if not filled:
        return json.dumps([document, document]).encode()
    place, found = rng.choice(filled)
    key = rng.choice(sorted(found))
    entries = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    again = f"{json.dumps(key)}: {rng.choice((*JUNK[:12], json.dumps(rng.choice(list(found.values())))))}"
    entries.insert(rng.choice((0, len(entries))), again)
    return _with(document, place, "{" + ", ".join(entries) + "}")


def _number_changed(rng: random.Random, data: bytes) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return of_bytes(rng, data)
    at = rng.choice(found)
    return data[: at.start()] + rng.choice(_NUMBERS).encode() + data[at.end() :]


def of_lines(rng: random.Random, data: bytes) -> bytes:
    """Text, such as TOML: a line twice, gone or elsewhere, a number pushed to its extreme, brackets without end."""
    lines = data.split(b"\n")
    edit, at = rng.randrange(7), rng.randrange(len(lines))
    if edit == 0:
        return _number_changed(rng, data)
    if edit == 1:
        return b"\n".join([*lines[:at], *lines[at + 1 :]])
    if edit == 2:
        return b"\n".join([*lines[:at], lines[at], *lines[at:]])
    if edit == 3:
        rng.shuffle(lines)
        return b"\n".join(lines)
    if edit == 4:
        key = lines[at].partition(b"=")[0] or b"a "
        values = (*JUNK, *_NUMBERS, "[" * _DEEP, "{a=" * _DEEP, "1979-05-27T07:32:00Z", "'''" + "x" * 5000, "0x" + "f" * 5000)
        return b"\n".join([*lines[:at], key + b"= " + rng.choice(values).encode(), *lines[at + 1 :]])
    return of_bytes(rng, data)


def of_json_lines(rng: random.Random, data: bytes) -> bytes:
    """Lines of JSON: one of them changed, or their order and number."""
    lines = data.split(b"\n")
    filled = [number for number, line in enumerate(lines) if line]
    if rng.randrange(3) == 0:
        return of_lines(rng, data)
    at = rng.choice(filled)
    return b"\n".join([*lines[:at], of_json(rng, lines[at]), *lines[at + 1 :]])


def of_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file: any byte, the entries of its header, or the JSON of ours in its metadata, with lengths that fit."""
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    edit = rng.randrange(3)
    if edit == 0:
        return of_bytes(rng, data)
    if edit == 1:
        new = of_json(rng, header)
    else:
        entries = json.loads(header)
        metadata = entries.get("__metadata__") or {"none": "{}"}
        key = rng.choice(sorted(metadata))
        inner = of_json(rng, metadata[key].encode()) if metadata[key].startswith("{") else of_bytes(rng, metadata[key].encode())
        new = json.dumps(entries | {"__metadata__": metadata | {key: inner.decode("utf-8", "replace")}}).encode()
    return len(new).to_bytes(8, "little") + new + rest
