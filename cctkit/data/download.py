"""A download that can be cut off: continued where the server lets it, checked before anything reads it."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cctkit.data.source import Progress
from cctkit.errors import UserError
from cctkit.rundir import full_disk_named
from cctkit.text import safe_text

_TIMEOUT_S = 10
_BLOCK = 1 << 20


def download(url: str, path: Path, *, md5: str | None = None, sha256: str | None = None, progress: Progress) -> None:
    """Load `url` to `path`, which appears only when its checksum is right. What a broken download left is continued.

    md5, sha256: one of them, in hexadecimal, or as many first digits of it as are published.

    Raises: UserError where the server cannot be reached or gives something else; ResourceError where the disk is full.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, part, progress)
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise UserError(
            f"the download failed: {safe_text(getattr(error, 'reason', None) or error)}",
            url,
            "try again (it goes on where it was)",
        ) from error
    kind, expected = ("SHA-256", sha256) if sha256 else ("MD5", md5)
    assert expected, "a download without a checksum"
    digest = hashlib.sha256() if sha256 else hashlib.md5(usedforsecurity=False)
    with open(part, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if not digest.hexdigest().startswith(expected):
        part.unlink()
        raise UserError(f"the download is not the published file: its {kind} differs; it was removed", url, "try again")
    part.replace(path)


def _fetch(url: str, part: Path, progress: Progress) -> None:
    """Append to `part` what is missing, or begin anew where the server does not continue."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply: Any = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is missing: the checksum decides
            return
        raise
    with reply:
        continues = reply.status == 206
        total = int(reply.headers.get("Content-Length") or 0) + (have if continues else 0)
        done = have if continues else 0
        with open(part, "ab" if continues else "wb") as file:
            while block := reply.read(_BLOCK):
                with full_disk_named(part):
                    file.write(block)
                done += len(block)
                progress(f"downloading {part.name.removesuffix('.part')} (bytes)", done, total)
        if total and done < total:
            raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")
