"""Download files: resumed if the server supports it, and verified before use."""

import contextlib
import hashlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cctkit.data.source import Progress
from cctkit.errors import UserError
from cctkit.files import full_disk_named, make_directories, sync_directory, unwritable
from cctkit.locking import locked
from cctkit.text import safe_text

_CONNECT_S = 10.0
_POLL_S = 0.1
_BLOCK = 1 << 18


def download(
    url: str,
    path: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    max_bytes: int | None = None,
    progress: Progress,
) -> Path:
    """Download `url` to `path`, which appears only if its checksum is right. An interrupted download is resumed.

    md5, sha256: give one, in hexadecimal, or its published first digits.
    max_bytes: a longer file is an error.

    Raises: UserError if the server cannot be reached within 10 s or sends something else; ResourceError if the disk is full.
    """
    part, lock_file = (path.with_name(f"{path.name}.{end}") for end in ("part", "lock"))
    with contextlib.ExitStack() as stack:
        try:
            make_directories(path.parent)
            stack.enter_context(
                locked(lock_file, lambda: progress(f"waiting for another process to download {path.name}", 0, 1))
            )
        except OSError as error:
            raise unwritable("cannot write the download", error, path.parent) from error
        if not path.exists():  # another process may have downloaded it meanwhile
            _fetch(url, part, progress, max_bytes)
            _check(url, part, md5=md5, sha256=sha256)
            with full_disk_named(path):
                with open(part, "r+b") as file:
                    os.fsync(file.fileno())
                part.replace(path)
                sync_directory(path.parent)
    return path


def _fetch(url: str, part: Path, progress: Progress, max_bytes: int | None) -> None:
    """Download the rest of `part` in a thread, so that `progress` can stop a slow server."""
    transfer = _Transfer(url, part)
    transfer.start()
    deadline_s = time.monotonic() + _CONNECT_S
    try:
        alive = True
        while alive:
            transfer.join(_POLL_S)
            alive = transfer.is_alive()
            if max_bytes is not None and max(transfer.done, transfer.total) > max_bytes:
                part.unlink(missing_ok=True)
                raise UserError(f"the server sends more than the {max_bytes:,} bytes expected", url, "try again")
            progress(f"downloading {part.stem} (bytes)", transfer.done, transfer.total)
            if alive and not transfer.connected and time.monotonic() > deadline_s:
                raise UserError(f"the download failed: no answer within {_CONNECT_S:.0f} s", url, "check the network")
    finally:
        transfer.stopped.set()
    error = transfer.error
    if error is not None:
        if isinstance(error, UserError) or not isinstance(error, (OSError, http.client.HTTPException, ValueError)):
            raise error
        http_error = isinstance(error, urllib.error.HTTPError)  # its `reason` lacks the code
        reason = error.reason if isinstance(error, urllib.error.URLError) and not http_error else error
        raise UserError(
            f"the download failed: {safe_text(reason)}",
            url,
            "try again to resume it",
        ) from error


class _Transfer(threading.Thread):
    """Appends the missing bytes to `part`, or starts again if the server cannot resume.

    done, total: bytes.
    connected: the server has answered.
    error: why it ended early.
    """

    def __init__(self, url: str, part: Path) -> None:
        super().__init__(daemon=True)
        self.url, self.part = url, part
        self.done = self.total = 0
        self.connected = False
        self.error: Exception | None = None
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            self._fetch()
        except Exception as error:  # reported by `_fetch`
            self.error = error

    def _fetch(self) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            reply: Any = urllib.request.build_opener(_Redirects).open(request, timeout=_CONNECT_S)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and have:  # nothing is missing: the checksum decides
                return
            raise
        with reply:
            self.connected = True
            continues = reply.status == 206
            if continues and not reply.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-"):
                self.part.unlink()
                raise UserError("the server did not resume at the requested byte", self.url, "try again from the beginning")
            self.done = have if continues else 0
            self.total = int(reply.headers.get("Content-Length") or 0) + self.done
            self._copy(reply, "ab" if continues else "wb")
        if self.done < self.total and not self.stopped.is_set():
            raise ConnectionError(f"the connection broke after {self.done:,} of {self.total:,} bytes")

    def _copy(self, reply: Any, mode: str) -> None:
        if self.stopped.is_set():  # too late: another attempt may be writing the file
            return
        with open(self.part, mode) as file:
            while not self.stopped.is_set() and (block := reply.read1(_BLOCK)):
                with full_disk_named(self.part):
                    file.write(block)
                    file.flush()
                self.done += len(block)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but from https only to https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise UserError(f"the server redirects from https to {safe_text(newurl)}, which is not followed", req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check(url: str, part: Path, *, md5: str | None, sha256: str | None) -> None:
    kind, expected = ("SHA-256", sha256) if sha256 else ("MD5", md5)
    assert expected, "a download without a checksum"
    if not file_digest(part, "sha256" if sha256 else "md5").startswith(expected):
        part.unlink()
        raise UserError(f"the download is not the published file: its {kind} differs; it was removed", url, "try again")


def file_digest(path: Path, algorithm: str) -> str:
    """Digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
