"""The page in headless Chromium: nothing is requested, nothing is logged, tables sort, names from outside do nothing."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cctkit.text import safe_text
from tests.inspection.conftest import BREAKOUT, HOSTILE, change_json, inspected

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--virtual-time-budget=1000"),
)
ITS_OWN = re.compile(r"([/.]|CONNECT )?[\w.-]*\.(google|googleapis|gstatic)\.com[:/]")
"""Where Chromium connects by itself, however it is told not to. What the page loads is looked at in the page, too."""
LOOK = """
addEventListener("load", () => {
  const table = document.querySelector("#classes table");
  const column = (n) => [...table.tBodies[0].rows].map((row) => [row.cells[0].textContent, row.cells[n].dataset.value ?? null]);
  const press = (n) => { table.tHead.rows[0].cells[n].firstElementChild.click(); return column(n); };
  const pressed = { recall: [press(3), press(3)], names: press(0), sorted: table.tHead.innerHTML.match(/aria-sort="\\w+"/g) };
  table.querySelector("button").focus();
  document.documentElement.style.width = "400px";
  const beyond = [...document.querySelectorAll("body *")].filter(
    (each) => each.parentElement.closest(".scroll") === null && each.getBoundingClientRect().right > 400.5);
  document.body.dataset.seen = JSON.stringify({
    ...pressed,
    focus: document.activeElement.tagName,
    hacked: typeof window.hacked,
    scripts: document.scripts.length,
    handlers: [...document.querySelectorAll("*")].filter((each) => [...each.attributes].some((a) => /^on/.test(a.name))).length,
    loaded: performance.getEntriesByType("resource").map((each) => each.name.slice(0, 40)),
    broken: [...document.images].filter((each) => each.naturalWidth === 0).length,
    images: document.images.length,
    beyond: beyond.map((each) => each.outerHTML.slice(0, 80)),
    dark: matchMedia("(prefers-color-scheme: dark)").matches && getComputedStyle(document.body).backgroundColor,
  });
});
"""


@contextmanager
def serving(page: bytes) -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers only `/page.html`; its address, and the request lines that it gets."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.requestline)
            known = self.path.endswith("/page.html")
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page) if known else 0))
            self.end_headers()
            if known:
                self.wfile.write(page)

        do_POST = do_CONNECT = do_HEAD = do_OPTIONS = do_GET

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


def seen_by_chromium(page: str, folder: Path, *flags: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """What a script sees in a copy of the page that admits it; the requests; the lines of the console."""
    assert CHROMIUM is not None
    admitted = f"'sha256-{base64.b64encode(hashlib.sha256(LOOK.encode()).digest()).decode()}'"
    copy = page.replace("script-src ", f"script-src {admitted} ", 1).replace("</body>", f"<script>{LOOK}</script></body>")
    with serving(copy.encode()) as (address, requests):
        proxy = (f"--proxy-server={address}", "--proxy-bypass-list=<-loopback>", f"--user-data-dir={folder / 'profile'}")
        words = [CHROMIUM, *FLAGS, *proxy, *flags, "--enable-logging=stderr", "--dump-dom", "http://run.test/page.html"]
        done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    errors = done.stderr.decode(errors="replace").splitlines()
    (seen,) = re.findall(r'data-seen="([^"]*)"', done.stdout.decode()) or [""]
    assert seen, errors[-5:]
    lines = [line for line in errors if ":CONSOLE" in line]
    return json.loads(html.unescape(seen)), [line for line in requests if not ITS_OWN.search(line)], lines


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_asks_for_nothing_sorts_and_does_nothing_else(copied: Path, tmp_path: Path) -> None:
    change_json(copied / "env.json", lambda env: env.update(command=["train", BREAKOUT], platform={BREAKOUT: BREAKOUT}))
    change_json(copied / "env.json", lambda env: env["dataset"].update(name=BREAKOUT))
    _, page = inspected(copied, tmp_path / "page.html")
    seen, requests, console = seen_by_chromium(page, tmp_path)
    assert requests == ["GET http://run.test/page.html HTTP/1.1"]
    assert [name for name in seen["loaded"] if not name.startswith("data:")] == []
    assert console == []
    assert (seen["hacked"], seen["handlers"], seen["scripts"]) == ("undefined", 0, 2)  # its own, and that of this test
    rows = json.loads((copied / "result.json").read_text())["per_class"]
    recall = sorted(row["recall_percent"] for row in rows if row["recall_percent"] is not None)
    up, down = seen["recall"]
    assert [float(value) for _, value in up] == recall
    assert [float(value) for _, value in down] == recall[::-1]
    assert sorted(name for name, _ in seen["names"]) == sorted(safe_text(name) for name in HOSTILE)
    assert seen["names"] != up
    assert seen["sorted"] == ['aria-sort="ascending"']
    assert seen["focus"] == "BUTTON"  # which the keys Enter and Space press
    assert (seen["broken"], seen["images"] > 10) == (0, True)
    assert seen["beyond"] == []  # of 400 pixels


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_dark_theme_is_followed_and_a_page_that_loads_or_runs_something_is_noticed(page: str, tmp_path: Path) -> None:
    spoilt = page.replace("img-src data:", "img-src * data:").replace(
        "</main>", '<img src="http://evil.test/a.png"><p onclick="hacked=1">a</p><script>hacked=1</script></main>'
    )
    seen, requests, console = seen_by_chromium(spoilt, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert seen["dark"] == "rgb(20, 23, 27)"
    assert "GET http://evil.test/a.png HTTP/1.1" in requests
    assert any("evil.test" in name for name in seen["loaded"])
    assert any("Content Security Policy" in line for line in console)  # the script was refused
    assert (seen["hacked"], seen["handlers"], seen["scripts"], seen["broken"]) == ("undefined", 1, 3, 1)
