"""Detect PNG files whose data ends early: Pillow accepts them and leaves the missing rows black."""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

_SIGNATURE = 8
_PIECE = 2**20
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Adam7 (PNG specification, 8.2): first column, first row, step of columns and step of rows of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def lacks_rows(image: Image.Image, path: str) -> bool:
    """Whether the data of this PNG, which Pillow has decoded, ends before the last row.

    Pillow fills rows from the top over zeros. If the last pixel is not zero, no row is missing and the file need not be
    decompressed again; this does not hold for interlaced files.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    if not image.info.get("interlace") and (any(last) if isinstance(last, tuple) else last):
        return False
    expected, found, inflate = 0, 0, zlib.decompressobj()
    for kind, data in _chunks(path):
        if kind == b"IHDR":
            expected = _row_bytes(data)
        try:
            found += sum(map(len, _decompressed(inflate, data))) if kind == b"IDAT" else 0
        except zlib.error:  # behind the last row, or Pillow would have met it
            break
    return found < expected


def _chunks(path: str) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of the IHDR and IDAT chunks, in pieces."""
    with open(path, "rb") as file:
        file.seek(_SIGNATURE)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IHDR":
                yield kind, file.read(length)
            elif kind == b"IDAT":
                for start in range(0, length, _PIECE):
                    yield kind, file.read(min(_PIECE, length - start))
            else:
                file.seek(length, 1)
            file.seek(4, 1)  # its checksum


def _decompressed(inflate: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    while data:
        yield inflate.decompress(data, _PIECE)
        data = inflate.unconsumed_tail
    yield inflate.decompress(b"")


def _row_bytes(header: bytes) -> int:
    """Bytes of all rows, with a filter byte each, of an image with this IHDR."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    total = 0
    for column, row, columns, rows in _PASSES if interlaced else ((0, 0, 1, 1),):
        wide, high = -((column - width) // columns), -((row - height) // rows)
        if wide > 0 and high > 0:
            total += high * (1 + -(-wide * depth * _CHANNELS[colour] // 8))
    return total
