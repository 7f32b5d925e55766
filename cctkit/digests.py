"""The digest that a safetensors file of ours carries in its header, over all else that the file says."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cctkit.text import safe_text

_NAME = "digest"
_BLOCK = 2**20


def sealed(header: Mapping[str, Any], plain: bytes) -> dict[str, Any]:
    """`header` with the digest of itself and of the tensors in `plain`, a safetensors file that has no metadata yet."""
    size = int.from_bytes(plain[:8], "little")
    return sealed_over(header, json.loads(plain[8 : 8 + size]), [memoryview(plain)[8 + size :]])


def sealed_over(
    header: Mapping[str, Any], entries: Mapping[str, Any], data: Iterable["bytes | memoryview[int]"]
) -> dict[str, Any]:
    """`header` with the SHA-256 of the tensors' bytes, of their entries (dtype, shape, place), and of the header itself."""
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    digest.update(json.dumps([header, entries], sort_keys=True).encode())
    return {**header, _NAME: f"sha256:{digest.hexdigest()}"}


def check_digest(path: Path, key: str, *, without: str | None = None) -> bool:
    """Whether a safetensors file has a digest in its header, the JSON under `key`: then it is the right one.

    without: a tensor whose bytes, but not its entry, are left out. The file is one that safetensors opens.

    Raises: ValueError where the digest is of other bytes; OSError.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
        header = json.loads(entries.pop("__metadata__")[key])
        if _NAME not in header:
            return False
        expected = header.pop(_NAME)
        left_out = entries[without]["data_offsets"] if without else (0, 0)
        if sealed_over(header, entries, _bytes(file, *(8 + size + offset for offset in left_out)))[_NAME] != expected:
            raise ValueError("some of its bytes are not those that were written")
    return True


def _bytes(file: BinaryIO, gap_start: int, gap_stop: int) -> Iterator[bytes]:
    """What follows in `file`, but for a gap."""
    while block := file.read(min(_BLOCK, gap_start - file.tell())) if file.tell() < gap_start else b"":
        yield block
    file.seek(max(file.tell(), gap_stop))
    while block := file.read(_BLOCK):
        yield block


def not_verified(path: Path | str) -> str:
    """What to say of a file from before there were digests."""
    return f"{safe_text(path)} has no checksums, since an earlier version wrote it: not verified"
