"""Writes the page and the pictures; only files that `cctkit inspect` has written itself are replaced."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from cctkit.errors import DiskError, UserError
from cctkit.files import write_atomic
from cctkit.inspection.page import GENERATOR
from cctkit.runs.predictions import check_new
from cctkit.text import safe_text

_PAGE_MARK = f'<meta name="generator" content="{GENERATOR}">'.encode()
_PICTURE_MARK = b"tEXtSoftware\0" + GENERATOR.encode()  # a chunk of a PNG: keyword, zero, text
_PNG_HEAD = 33  # bytes of the signature and the chunk IHDR, which has to be the first
_HEAD_BYTES = 2000


def check_output(path: Path) -> None:
    """Check that the page can be written, before any work is done. An earlier page is replaced.

    Raises: UserError.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError("the page is an HTML file", safe_text(path), "name a file that ends in .html with --output")
    if not _has_mark(path, _PAGE_MARK):
        check_new(path, "--output")


def write_page(path: Path, html: bytes) -> None:
    """Write the page atomically."""
    write_atomic(path, html)


def picture_bytes(draw: Callable[[Path], None]) -> bytes:
    """The PNG that `draw` writes, with the mark by which it is recognised."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        draw(path)
        data = path.read_bytes()
    length = (len(_PICTURE_MARK) - len(b"tEXt")).to_bytes(4, "big")
    return data[:_PNG_HEAD] + length + _PICTURE_MARK + zlib.crc32(_PICTURE_MARK).to_bytes(4, "big") + data[_PNG_HEAD:]


def keep_picture(path: Path, data: bytes, notify: Callable[[str], None]) -> bool:
    """Write a picture into the run directory; False, with a notice, if it cannot be written or would replace another file.

    Raises: DiskError if the disk is full.
    """
    if os.path.lexists(path) and not _has_mark(path, _PICTURE_MARK):
        notify(f"not written: {safe_text(path)} is not a picture of cctkit inspect, and nothing is overwritten")
        return False
    try:
        write_atomic(path, data)
    except DiskError:
        raise
    except UserError as error:  # a run directory that may only be read
        notify(f"{safe_text(path)} is left out: {error.what}")
        return False
    return True


def _has_mark(path: Path, mark: bytes) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return mark in file.read(_HEAD_BYTES)
