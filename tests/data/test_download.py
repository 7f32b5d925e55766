"""Downloads are continued, checked, and never half there."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cctkit.data.download import download
from cctkit.errors import UserError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    ranges = True
    cut_at: int | None = None
    asked: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        Handler.asked.append(self.headers.get("Range"))
        start = 0
        if self.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.cut_at])

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    Handler.ranges, Handler.cut_at, Handler.asked = True, None, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()


def fetch(url: str, path: Path, md5: str = MD5) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    download(url, path, md5=md5, progress=lambda what, done, total: seen.append((done, total)))
    return seen


def test_a_download_arrives_whole_and_shows_its_progress(url: str, tmp_path: Path) -> None:
    seen = fetch(url, tmp_path / "sub" / "file")
    assert (tmp_path / "sub" / "file").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["file"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_or_begins_anew(url: str, tmp_path: Path, ranges: bool) -> None:
    Handler.ranges, Handler.cut_at = ranges, 300_000
    with pytest.raises(UserError, match="download failed"):
        fetch(url, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    Handler.cut_at = None
    fetch(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert Handler.asked[1] == "bytes=300000-"


def test_a_whole_part_file_is_only_checked(url: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_wrong_content_is_removed(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MD5 differs"):
        fetch(url, tmp_path / "file", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="download failed"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file")
