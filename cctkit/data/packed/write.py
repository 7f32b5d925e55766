"""Write a packed file: the images, then the small tensors, and last the header, for which space is left at the start."""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from cctkit.config.size import Size
from cctkit.data.packed.decode import GOOD, Rows
from cctkit.data.packed.read import DTYPES, KEY, SCHEMA
from cctkit.data.report.seen import Seen
from cctkit.data.source import Labels, Source
from cctkit.digests import sealed_over

_ALIGNMENT = 64
_CODES = {"uint8": "U8", "int8": "I8", "uint32": "U32", "int64": "I64", "float64": "F64"}
_PIECE = 2**16  # images whose small tensors are in memory at a time


def header_of(source: Source, size: Size, mode: str) -> dict[str, Any]:
    """The header, with a placeholder for the fingerprint."""
    return {
        "schema_version": SCHEMA,
        "name": source.name,
        "class_names": source.class_names,
        "image_size": size,
        "resize_mode": mode,
        "fingerprint": "sha256:" + "0" * 64,
    }


def images_at(header: dict[str, Any]) -> int:
    """Offset of the images in the file."""
    return 8 + _room(header)


def _room(header: dict[str, Any]) -> int:
    room = len(json.dumps({KEY: json.dumps(header)})) + 2048
    return room + -(8 + room) % _ALIGNMENT


def write_rest(file: BinaryIO, source: Source, rows: Rows, *, header: dict[str, Any], skipped: str) -> None:
    """Write everything but the images.

    file: positioned after the images.
    rows: (M,) of ROW, for every image of `source`; the good ones are in the file.
    skipped: the broken images, one per line.
    """
    room = _room(header)
    kept = np.flatnonzero(rows["state"] == GOOD)
    digests = rows["digest"][kept]
    order = digests.view("<i8").reshape(-1, 4)[:, 0].copy()
    digests.sort()
    header = header | {"fingerprint": "sha256:" + hashlib.sha256(digests.data).hexdigest()}
    del digests
    number, image_size = len(kept), header["image_size"]
    offsets = np.zeros(number + 1, dtype=np.int64)
    np.cumsum(np.fromiter((len(_id(source, int(i))) for i in kept), dtype=np.int64, count=number), out=offsets[1:])
    texts, seen = skipped.encode(), Seen.of_rows(rows, source.ids).as_json().encode()
    padding = bytes(-file.tell() % 8)
    tensors: dict[str, tuple[tuple[int, ...], Iterator[bytes]]] = {
        "padding": ((len(padding),), iter([padding])),
        "labels": ((number,), (source.labels[some].tobytes() for some in _pieces(kept))),
        "id_offsets": ((number + 1,), iter([offsets.tobytes()])),
        "order": ((number,), iter([order.tobytes()])),
        "pixel_digests": ((number,), (rows["pixel_digest"][some].tobytes() for some in _pieces(kept))),
        "sums": ((number, 6), (rows["sums"][some].tobytes() for some in _pieces(kept))),
        "checksums": ((number,), (rows["checksum"][some].tobytes() for some in _pieces(kept))),
        "roles": ((number,), (source.roles[some].tobytes() for some in _pieces(kept))),
        "ids": ((int(offsets[-1]),), (b"".join(_id(source, int(i)) for i in some) for some in _pieces(kept))),
        "skipped": ((len(texts),), iter([texts])),
        "seen": ((len(seen),), iter([seen])),
    }
    place = number * 3 * image_size[0] * image_size[1]
    entries = {"images": _entry("uint8", (number, 3, *image_size), 0)}
    for name in ("padding", *DTYPES):
        entries[name] = _entry(DTYPES.get(name, "uint8"), tensors[name][0], place)
        place = entries[name]["data_offsets"][1]
    header = sealed_over(
        header, entries, _written(file, (piece for name in entries if name in tensors for piece in tensors[name][1]))
    )
    text = json.dumps({"__metadata__": {KEY: json.dumps(header)}, **entries}).encode()
    assert len(text) <= room, "the header would overwrite images"
    file.seek(0)
    file.write(struct.pack("<Q", room) + text.ljust(room))


def _written(file: BinaryIO, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Write each piece, then yield it."""
    for piece in pieces:
        file.write(piece)
        yield piece


def _pieces(kept: Labels) -> Iterator[Labels]:
    return (kept[start : start + _PIECE] for start in range(0, len(kept), _PIECE))


def _id(source: Source, i: int) -> bytes:
    return source.ids[i].encode("utf-8", "surrogateescape")


def _entry(dtype: str, shape: tuple[int, ...], start: int) -> dict[str, Any]:
    code = _CODES[dtype]
    return {"dtype": code, "shape": shape, "data_offsets": [start, start + math.prod(shape) * int(code[1:]) // 8]}
