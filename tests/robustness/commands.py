"""Every command of cctkit on files with hostile names, with no way to the network: what each prints, writes and connects to."""

import contextlib
import io
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

import cctkit
from cctkit.cli import app
from cctkit.models.weights import read_weights, save_weights
from tests.hub.test_card import write_onnx
from tests.robustness import names
from tests.robustness.names import FOLDER_NAMES, OTHER_NAMES

TINY = {"model": "cct_2_3x1", "embed_dim": 16, "num_heads": 2, "image_size": 8, "threads": 1}
_FLAGS = (
    "--model",
    "cct_2_3x1",
    "--embed-dim",
    "16",
    "--num-heads",
    "2",
    "--image-size",
    "8",
    "--threads",
    "1",
    "--epochs",
    "1",
)
_IMPORTED = ("--model", "cct_2_3x1", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")


@dataclass(frozen=True, kw_only=True)
class Play:
    """images: a folder with a class, and an image, of each name. run: trained on it, in a folder with such a name.

    odd: weights with class names that no folder can have. foreign: such as `cctkit import` takes. classes: their names, a line
    each. onnx: a small graph with the run's classes. settings: TOML with names in it.
    """

    place: Path
    images: Path
    run: Path
    odd: Path
    foreign: Path
    classes: Path
    onnx: Path
    settings: Path


def make_play(place: Path) -> Play:
    """All of it, in the folder `place`."""
    images, run = place / "\x1b[2J[bold]<script>images", place / "=\x1b]0;x\x07[red]<script>run"
    draws = np.random.default_rng(0)
    for name, other in zip(FOLDER_NAMES, reversed(FOLDER_NAMES), strict=True):
        (images / name).mkdir(parents=True)
        for file in (f"{other[:60]}.png", "1.png", "2.png"):
            Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / name / file)
    cctkit.fit(dataset=str(images), output=run, epochs=1, **TINY)
    tensors, info = read_weights(run)
    class_names = (*OTHER_NAMES, *info.class_names[len(OTHER_NAMES) :])
    save_weights(place / "odd\x1b[2J.safetensors", tensors=tensors, info=replace(info, class_names=class_names))
    model = cctkit.create_model("cct_2_3x1", num_classes=len(FOLDER_NAMES))
    torch.save(model.state_dict(), place / "foreign.pth")
    listed = [name for name in FOLDER_NAMES if name.isprintable() and name == name.strip()]
    listed += [f"{number}\x1b[2J" for number in range(len(FOLDER_NAMES) - len(listed))]
    (place / "classes.txt").write_text("\n".join(listed), encoding="utf-8")
    write_onnx(place / "model\x1b[2J.onnx", run)
    (place / "\x1b[66m.toml").write_text('recipe = "fast"\nepochs = 2\nbatch_size = 8\n', encoding="utf-8")
    return Play(
        place=place,
        images=images,
        run=run,
        odd=place / "odd\x1b[2J.safetensors",
        foreign=place / "foreign.pth",
        classes=place / "classes.txt",
        onnx=place / "model\x1b[2J.onnx",
        settings=place / "\x1b[66m.toml",
    )


def _new(name: str) -> str:
    """An output in the folder where the commands run; hostile itself."""
    return f"out-\x1b[2J<script>{name}"


Lines = Callable[[Play], list[list[str]]]
COMMANDS: Mapping[str, Lines] = {
    "check": lambda p: [[str(p.images), "--no-suggest"], [str(p.images), "--no-suggest", "--json"]],
    "train": lambda p: [
        ["--dataset", str(p.images), *_FLAGS, "-o", _new("run")],
        ["--dataset", str(p.images), *_FLAGS, "--json", "--init", str(p.run)],
        ["--resume", str(p.odd)],
        ["--no-download", *_FLAGS],
    ],
    "eval": lambda p: [
        [str(p.run)],
        [str(p.run), "--json", "--csv", _new("classes.csv"), "--save-predictions", _new("predictions.csv")],
        [str(p.run), "--confusion", _new("matrix.csv"), "--confusion", _new("matrix.svg"), "-q"],
        [str(p.odd), "--dataset", str(p.images)],
        [str(p.odd), "--dataset", str(p.images), "--json"],
        [str(p.onnx), "--dataset", str(p.images), "--json"],
    ],
    "predict": lambda p: [
        [str(p.images), "--model", str(p.run)],
        [str(p.images), "--model", str(p.run), "--json", "--top", "3"],
        [str(p.images), "--model", str(p.odd), "--csv", _new("rows.csv")],
        [str(p.images / FOLDER_NAMES[0]), "--model", str(p.odd), "--heatmap", _new("maps")],
        [str(p.images / "missing\x1b[2J.png"), str(p.settings), "--model", str(p.onnx)],
    ],
    "summarize": lambda p: [
        ["--weights", str(p.run / "weights.safetensors")],
        ["--weights", str(p.odd), "--json"],
        ["--model", "\x1b[2Jcct_2_3x1"],
    ],
    "compare": lambda p: [
        ["--runs", str(p.run), "--plot", _new("front.svg")],
        *(["--runs", str(p.place), "--runs", str(p.run), form] for form in ("--json", "--csv", "--markdown")),
        ["--paired", str(p.run), str(p.run)],
        ["--paired", str(p.run), str(p.run), "--json"],
    ],
    "plot-lr": lambda p: [
        ["--config", str(p.settings), "--output", _new("lr.svg")],
        ["--config", str(p.settings), "--csv"],
        ["--config", str(p.run / "config.json"), "--json"],
    ],
    "curves": lambda p: [[str(p.run)], [str(p.run), str(p.run / "metrics.jsonl"), "--output", _new("curves.svg")]],
    "models": lambda p: [[], ["--json"]],
    "recipes": lambda p: [[], ["--json"]],
    "pack": lambda p: [
        [str(p.images), "--image-size", "8", "-o", _new("packed")],
        [str(p.images), "--image-size", "8", "-o", _new("packed again"), "--json"],
    ],
    "import": lambda p: [
        [str(p.foreign), "--classes", str(p.classes), "-o", _new("imported.safetensors"), *_IMPORTED],
        [str(p.settings), "--classes", str(p.classes), "-o", _new("nothing.safetensors"), *_IMPORTED],
    ],
    "export": lambda p: [
        ["--model", str(p.run), "--no-verify", "-o", _new("graph.onnx")],
        ["--model", str(p.odd), "--no-verify", "--json", "-o", _new("odd.onnx")],
    ],
    "card": lambda p: [
        [str(p.run), "-o", _new("card"), "--onnx", str(p.onnx)],
        [str(p.run), "-o", _new("card again"), "--json"],
    ],
    "bench": lambda p: [
        ["--model", "\x1b[2Jcct"],
        ["--model", "cct_2_3x1", "--image-size", "8", "-b", "2", "--quick", "--json"],
    ],
    "inspect": lambda p: [[str(p.run), "-o", _new("page.html")]],
}
"""Each command's lines. A command of cctkit that is not listed here fails a test."""


@dataclass(kw_only=True)
class Ran:
    """One command line: what came of it. faults: what is wrong in what was printed and written."""

    words: list[str]
    on_terminal: bool
    code: int | None = None
    out: str = ""
    err: str = ""
    connections: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class _Stream(io.TextIOWrapper):
    """A pipe or a terminal, with the encoding of one."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode("utf-8", "surrogateescape")  # type: ignore[attr-defined,no-any-return]


@contextlib.contextmanager
def no_network() -> Iterator[list[str]]:
    """Every way out is an error, and is listed. Sockets of the machine itself, as of worker processes, stay open."""
    tried: list[str] = []

    def refuse(name: str) -> Callable[..., Any]:
        original = getattr(socket.socket, name, None)

        def refused(*arguments: Any, **options: Any) -> Any:
            first = arguments[0] if arguments else None
            if original is not None and isinstance(first, socket.socket) and first.family == socket.AF_UNIX:
                return original(*arguments, **options)
            tried.append(f"{name}{arguments[1:] if isinstance(first, socket.socket) else arguments}")
            raise OSError(f"the test forbids {name}")

        return refused

    with contextlib.ExitStack() as stack:
        for name in ("connect", "connect_ex", "sendto"):
            stack.enter_context(mock.patch.object(socket.socket, name, refuse(name)))
        for name in ("create_connection", "getaddrinfo", "gethostbyname"):
            stack.enter_context(mock.patch.object(socket, name, refuse(name)))
        yield tried


def run_command(name: str, play: Play, folder: Path, *, on_terminal: bool, most: int | None = None) -> list[Ran]:
    """The lines of a command, all or the first `most`, in the new folder `folder`."""
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        return [run_line([name, *words], play, on_terminal=on_terminal) for words in COMMANDS[name](play)[:most]]


def run_line(words: list[str], play: Play, *, on_terminal: bool = False) -> Ran:
    """One command line, in this process, in the working directory."""
    ran = Ran(words=words, on_terminal=on_terminal)
    out, err = _Stream(is_terminal=on_terminal), _Stream(is_terminal=on_terminal)
    before = {path: path.read_bytes() for path in (*play.place.rglob("*"), *Path.cwd().rglob("*")) if path.is_file()}
    with no_network() as ran.connections, mock.patch.multiple(sys, stdout=out, stderr=err):
        try:
            ran.code = app.run(words)
        except Exception as error:  # a traceback is what is looked for
            ran.faults.append(f"{type(error).__name__}: {str(error)[:300]!r}")
    ran.out, ran.err = out.text(), err.text()
    ran.faults += [f"stderr: {fault}" for fault in names.faults_of_text(ran.err, on_terminal=on_terminal)]
    ran.faults += [f"stdout: {fault}" for fault in _faults_of_output(ran)]
    for folder in {play.place, Path.cwd()}:
        ran.faults += names.faults_of_files(before, folder)
    return ran


def _faults_of_output(ran: Ran) -> Iterator[str]:
    if ran.code == 0 and "--json" in ran.words and not ran.on_terminal:
        yield from names.faults_of_json(ran.out)
    elif "--csv" in ran.words and ran.words[0] in {"compare", "plot-lr"}:
        yield from names.faults_of_csv(ran.out)
    elif "--markdown" in ran.words:
        yield from names.faults_of_markdown(ran.out)
    yield from names.faults_of_text(ran.out, on_terminal=ran.on_terminal)


@contextlib.contextmanager
def small_graph(play: Play) -> Iterator[None]:
    """`cctkit export` without torch's exporter, which takes many seconds: with the graph of `play.onnx`."""
    import onnx

    with mock.patch("cctkit.export.export.onnx_graph", return_value=onnx.load(str(play.onnx))):
        yield
