"""SHA-256 digests in the headers of safetensors files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cctkit.text import safe_text

_NAME = "digest"
_BLOCK = 2**20


def sealed(header: Mapping[str, Any], plain: bytes) -> dict[str, Any]:
    """Return `header` with the digest of itself and the tensors of `plain`, a safetensors file without metadata."""
    size = int.from_bytes(plain[:8], "little")
    return sealed_over(header, json.loads(plain[8 : 8 + size]), [memoryview(plain)[8 + size :]])


def sealed_over(
    header: Mapping[str, Any], entries: Mapping[str, Any], data: Iterable["bytes | memoryview[int]"]
) -> dict[str, Any]:
    """Return `header` with the SHA-256 of the tensors' bytes, their entries (dtype, shape, offsets) and the header itself."""
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    digest.update(json.dumps([header, entries], sort_keys=True).encode())
    return {**header, _NAME: f"sha256:{digest.hexdigest()}"}


def check_digest(path: Path, key: str, *, without: str | None = None) -> bool:
    """Check the digest in the header of a safetensors file; false if it has none.

    path: a file that safetensors can open.
    key: the metadata key of the header, which is JSON.
    without: a tensor whose bytes the digest does not cover.

    Raises: ValueError if the digest is wrong; OSError.
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
            raise ValueError("its bytes are not those that were written")
    return True


def _bytes(file: BinaryIO, gap_start: int, gap_stop: int) -> Iterator[bytes]:
    """The rest of `file`, without a gap."""
    while block := file.read(min(_BLOCK, gap_start - file.tell())) if file.tell() < gap_start else b"":
        yield block
    file.seek(max(file.tell(), gap_stop))
    while block := file.read(_BLOCK):
        yield block


def not_verified(path: Path | str) -> str:
    """Notice for a file of an earlier version, without digests."""
    return f"{safe_text(path)} has no checksums (an earlier version wrote it): not verified"
