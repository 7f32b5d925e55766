"""Downloads are announced, resumed, checked and atomic."""

import email.message
import hashlib
import http.server
import io
import os
import threading
import urllib.request
import urllib.response
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cctkit.catalog.datasets import DATASETS
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.sources import download as module
from cctkit.data.sources.download import download
from cctkit.errors import ResourceError, StoppedError, UserError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    ranges = True
    cut_at: int | None = None
    range_offset = 0
    answers = threading.Event()
    more = b""
    refuses = False
    moved_to = ""
    asked: list[str | None] = []  # noqa: RUF012
    answered: list[bool] = []  # noqa: RUF012

    def do_GET(self) -> None:
        Handler.asked.append(self.headers.get("Range"))
        self.answers.wait()
        Handler.answered.append(True)
        if self.refuses:
            self.send_error(416)
            return
        if self.moved_to and self.path == "/old":
            self.send_response(302)
            self.send_header("Location", self.moved_to)
            self.end_headers()
            return
        start = 0
        if self.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + self.range_offset}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start + len(self.more)))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.cut_at] + self.more)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("ranges", "cut_at", "range_offset", "more", "refuses", "moved_to"):
        monkeypatch.setattr(Handler, name, getattr(Handler, name))  # put back afterwards
    Handler.answers.set()
    Handler.asked, Handler.answered = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    Handler.answers.set()
    server.shutdown()
    server.server_close()


def fetch(
    url: str, path: Path, md5: str = MD5, *, progress: Callable[[str, int, int], None] | None = None, **options: Any
) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    progress = progress or (lambda what, done, total: seen.append((done, total)))
    download(url, path, md5=None if "sha256" in options else md5, progress=progress, **options)
    return seen


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_complete_and_reports_progress(url: str, tmp_path: Path) -> None:
    seen = fetch(url, tmp_path / "sub" / "file")
    assert (tmp_path / "sub" / "file").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert names(tmp_path / "sub") == ["file"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed_or_restarted(url: str, tmp_path: Path, ranges: bool) -> None:
    Handler.ranges, Handler.cut_at = ranges, 300_000
    with pytest.raises(UserError, match=r"the connection broke after 300,000 of 1,024,000 bytes"):
        fetch(url, tmp_path / "file")
    assert names(tmp_path) == ["file.part"]
    Handler.cut_at = None
    fetch(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert Handler.asked[1] == "bytes=300000-"


def test_a_complete_part_file_is_only_checked(url: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_download_with_a_wrong_checksum_is_removed(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MD5 differs"):
        fetch(url, tmp_path / "file", md5="0" * 32)
    assert names(tmp_path) == []


def test_a_sha256_prefix_can_replace_the_md5(url: str, tmp_path: Path) -> None:
    fetch(url, tmp_path / "file", sha256=hashlib.sha256(CONTENT).hexdigest()[:8])
    assert names(tmp_path) == ["file"]
    with pytest.raises(UserError, match="SHA-256 differs"):
        fetch(url, tmp_path / "other", sha256="00000000")


def test_a_part_of_another_file_is_detected_and_removed(url: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="MD5 differs"):
        fetch(url, tmp_path / "file")
    assert names(tmp_path) == []


def test_a_server_that_resumes_at_another_byte_is_refused(url: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    Handler.range_offset = 1
    with pytest.raises(UserError, match="did not resume at the requested byte"):
        fetch(url, tmp_path / "file")
    assert names(tmp_path) == []


def test_a_server_that_sends_far_more_than_the_file_is_stopped(url: str, tmp_path: Path) -> None:
    Handler.more = b"x" * 4_000_000
    with pytest.raises(UserError, match="sends more than the 1,100,000 bytes"):
        fetch(url, tmp_path / "file", max_bytes=1_100_000)
    assert names(tmp_path) == []


def test_a_reply_that_is_not_http_is_an_error(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\nx"))
    with pytest.raises(UserError, match="download failed"):
        fetch(url, tmp_path / "file")
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"\x00" * 1000))
    with pytest.raises(UserError, match="download failed"):
        fetch(url, tmp_path / "file")


def test_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"download failed: .*refused"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file")


def test_a_file_missing_on_the_server_is_an_error(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(UserError, match="HTTP Error 404"):
        fetch(url, tmp_path / "file")


def test_a_server_that_does_not_answer_times_out(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._CONNECT_S == 10
    monkeypatch.setattr(module, "_CONNECT_S", 0.05)
    given_up = threading.Event()

    def slow(*_args: Any, **_options: Any) -> None:  # as a name look-up, which takes no notice of the socket's own time-out
        given_up.wait()
        raise TimeoutError

    monkeypatch.setattr(module.urllib.request.OpenerDirector, "open", slow)
    with pytest.raises(UserError, match="no answer within"):
        fetch(url, tmp_path / "file")
    given_up.set()


def test_a_stop_request_ends_a_waiting_download_at_once(url: str, tmp_path: Path) -> None:
    Handler.answers.clear()

    def stop(what: str, done: int, total: int) -> None:
        raise StoppedError(2)

    with pytest.raises(StoppedError):
        fetch(url, tmp_path / "file", progress=stop)
    assert Handler.answered == []
    assert "file" not in names(tmp_path)


def test_two_processes_download_a_file_once(url: str, tmp_path: Path) -> None:
    Handler.answers.clear()
    threads = [threading.Thread(target=fetch, args=(url, tmp_path / "file")) for _ in range(2)]
    for thread in threads:
        thread.start()
    threading.Timer(0.3, Handler.answers.set).start()
    for thread in threads:
        thread.join()
    assert Handler.asked == [None]
    assert names(tmp_path) == ["file"]


def test_a_full_disk_says_so(url: str, tmp_path: Path) -> None:
    (tmp_path / "file.part").symlink_to("/dev/full")
    Handler.ranges = False
    with pytest.raises(ResourceError, match="No space left"):
        fetch(url, tmp_path / "file")


def test_http_416_without_a_part_file_is_a_failed_download(url: str, tmp_path: Path) -> None:
    """It once stood for a part file that is whole, also where there was none."""
    Handler.refuses = True
    with pytest.raises(UserError, match=r"the download failed: HTTP Error 416.*try again"):
        fetch(url, tmp_path / "file")
    assert names(tmp_path) == []


def test_redirects_from_https_to_http_are_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def redirect(_: Any, request: urllib.request.Request) -> Any:
        headers = email.message.Message()
        headers["Location"] = target
        reply = urllib.response.addinfourl(io.BytesIO(), headers, request.full_url, 302)
        reply.msg = "Found"  # type: ignore[attr-defined]
        return reply

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", redirect)
    for target in (url, "ftp://127.0.0.1/file"):
        with pytest.raises(UserError, match=f"the server redirects from https to {target}, which is not followed"):
            fetch("https://localhost/file", tmp_path / "file")
    assert Handler.asked == []
    assert names(tmp_path) == []


def test_redirects_from_http_are_followed(url: str, tmp_path: Path) -> None:
    Handler.moved_to = url
    fetch(url.replace("/file", "/old"), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_download_is_fsynced_before_it_is_renamed(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace_file = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append(f"replace {path.name}"), replace_file(path, to)))
    fetch(url, tmp_path / "file")
    assert calls == ["fsync", "replace file.part", "fsync"]


def cifar_from(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    archive = DATASETS["cifar100"].archives[0]
    archive = replace(archive, files=(replace(archive.files[0], url=url),))
    row = replace(DATASETS["cifar100"], archives=(archive,))
    monkeypatch.setattr("cctkit.data.images.DATASETS", MappingProxyType({**DATASETS, "cifar100": row}))


def test_a_download_is_announced_before_it_starts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_from(monkeypatch, url)
    asked_by_then: list[int] = []
    said: list[str] = []

    def notify(text: str) -> None:
        said.append(text)
        asked_by_then.append(len(Handler.asked))

    config = DataConfig(dataset="cifar100", data_dir=str(tmp_path / "data"))
    with pytest.raises(UserError, match="MD5 differs"):
        load_dataset(config, notify=notify)
    assert (asked_by_then, len(Handler.asked)) == ([0], 1)
    assert "169 MB" in said[0]
    assert url.rpartition("/")[0] in said[0]


def test_without_a_network_the_digits_replace_cifar_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_from(monkeypatch, "http://127.0.0.1:9/file")
    said: list[str] = []
    config = DataConfig(data_dir=str(tmp_path / "data"))
    assert load_dataset(config, notify=said.append).name == "digits"
    assert "download failed" in said[1]
    with pytest.raises(UserError, match="download failed"):
        load_dataset(replace(config, dataset="cifar100"))


def test_no_download_does_not_use_the_network(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_from(monkeypatch, url)
    load_dataset(DataConfig(data_dir=str(tmp_path), download=False))
    assert Handler.asked == []
