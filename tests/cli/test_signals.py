"""SIGINT, SIGTERM and SIGHUP in every phase: nothing is left behind before training has begun, everything is saved after.

The signal is sent by the process to itself in the midst of the work of each phase, so nothing depends on the clock.
"""

import hashlib
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from cctkit.cli.app import run
from cctkit.engine.signals import StopRequest
from tests.conftest import write_images
from tests.processes import Forked

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SIGNALS = [pytest.param(number, code, id=number.name) for number, code in CODES.items()]
TRAIN = ["train", "--dataset", "digits", "--image-size", "8", "--model", "cct_2_3x2", "--epochs", "2", "--precision", "float32"]
TRAIN += ["--batch-size", "256", "--val-fraction", "0.1", "--ema", "0.9", "--quiet", "--threads", "1"]


@pytest.fixture(autouse=True)
def never_unheard() -> Iterator[None]:
    """A signal that nobody waits for fails its test, and not the whole session."""

    def unheard(number: int, _: object) -> None:
        raise AssertionError(f"signal {number} was sent while nothing waited for it")

    before = {number: signal.signal(number, unheard) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """send(number, place, name, at): the signal comes in call `at` of `place.name`, once; the list says when it was."""

    def arrange(number: int, place: Any, name: str, at: int, *, only: Callable[..., bool] = lambda *_: True) -> list[int]:
        real, calls, sent = getattr(place, name), [0], list[int]()

        def called(*arguments: Any, **named: Any) -> Any:
            calls[0] += only(*arguments)
            if calls[0] == at and not sent:
                sent.append(number)
                os.kill(os.getpid(), number)
            return real(*arguments, **named)

        monkeypatch.setattr(place, name, called)
        return sent

    return arrange


def is_heeded(number: int) -> bool:
    """Whether the run answers this signal by now: what it looks at first, before torch is imported, the system ends."""
    return isinstance(getattr(signal.getsignal(number), "__self__", None), StopRequest)


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file but locks and the machine's own measurement."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in {".cctkit.lock", "probe.json"})
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def weights(path: Path) -> str:
    return hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unbroken") / "run"
    assert run([*TRAIN, "-o", str(path)]) == 0
    return path


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("phase", ["scanning", "packing", "settings"])
def test_before_training_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[..., list[int]], number: int, code: int, phase: str
) -> None:
    from cctkit.training import run as run_module

    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path / "cache"))
    write_images(tmp_path / "pets", {"cat": 600, "dog": 4}, size=(8, 8))
    before = contents(tmp_path)
    if phase == "scanning":
        sent = send(number, os, "scandir", 1, only=lambda path=".": is_heeded(number) and str(path).startswith(str(tmp_path)))
    elif phase == "packing":
        sent = send(number, PIL.Image, "open", 3)
    else:
        sent = send(number, run_module, "environment", 1)
    arguments = ["train", "--dataset", str(tmp_path / "pets"), "--batch-size", "8", "-o", str(tmp_path / "runs" / "new")]
    assert run(arguments) == code
    assert sent == [number]
    assert not (tmp_path / "runs").exists()
    # What is read of the images serves the next start.
    left = {name: digest for name, digest in contents(tmp_path).items() if phase == "scanning" or "packed" not in name}
    assert left == before


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize(("module", "name"), [("evaluation.evaluate", "to_device"), ("runs.predictions", "write_atomic")])
def test_an_evaluation_that_is_stopped_leaves_the_run_as_it_was(
    unbroken: Path, tmp_path: Path, send: Callable[..., list[int]], number: int, code: int, module: str, name: str
) -> None:
    import importlib

    shutil.copytree(unbroken, tmp_path / "run")
    before = contents(tmp_path)
    sent = send(number, importlib.import_module(f"cctkit.{module}"), name, 1)
    assert run(["eval", str(tmp_path / "run"), "--quiet"]) == code
    assert sent == [number]
    assert contents(tmp_path) == before


# What is called, in which call the signal comes, and the step that is saved then. Of the two epochs: 2 evaluations of 2
# splits each, and one at the end; 6 steps an epoch; 6 files a checkpoint, then 7 with the best weights.
MOMENTS = {
    "the first checkpoint": ("training.checkpoint", "write_synced", 2, 1),
    "a step": ("training.loop", "train_step", 8, 8),
    "an evaluation": ("evaluation.evaluate", "to_device", 2, 6),
    "a checkpoint's first file": ("training.checkpoint", "write_synced", 7, 7),
    "a checkpoint's manifest": ("training.checkpoint", "write_synced", 12, 7),
    "the last checkpoint": ("training.checkpoint", "write_synced", 16, 12),
    "an epoch's weights": ("models.weights", "write_atomic", 1, 7),
    "the weights": ("models.weights", "write_atomic", 3, 12),
    "the predictions": ("runs.predictions", "write_atomic", 1, 12),
}
FEW = {"a step", "a checkpoint's manifest", "the weights"}


@pytest.mark.parametrize("moment", [each if each in FEW else pytest.param(each, marks=pytest.mark.slow) for each in MOMENTS])
def test_once_training_has_begun_everything_is_saved(
    unbroken: Path, tmp_path: Path, send: Callable[..., list[int]], capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    import importlib

    number, code = list(CODES.items())[list(MOMENTS).index(moment) % 3]
    module, name, at, step = MOMENTS[moment]
    sent = send(number, importlib.import_module(f"cctkit.{module}"), name, at)
    assert run([*TRAIN, "-o", str(tmp_path / "run")]) == code
    assert sent == [number]
    assert f"--resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*tmp*"))
    assert max((tmp_path / "run" / "checkpoints").iterdir()).name == f"step-{step:09}"
    assert run(["train", "--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert weights(tmp_path / "run") == weights(unbroken)


TWICE = """
import os, signal, sys, time
import PIL.Image
from cctkit.training import checkpoint
from cctkit.cli.app import run

number, phase = int(sys.argv[1]), sys.argv[2]
place, name = (checkpoint, "write_synced") if phase == "saving" else (PIL.Image, "open")
real, calls = getattr(place, name), [0]

def called(*arguments, **named):
    calls[0] += 1
    if calls[0] == 8:
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # for the main thread to hear of the first
        os.kill(os.getpid(), number)
        time.sleep(1000)
    return real(*arguments, **named)

setattr(place, name, called)
sys.exit(run(sys.argv[3:]))
"""


@pytest.mark.parametrize(("number", "phase"), [(signal.SIGINT, "saving"), (signal.SIGTERM, "packing")])
def test_a_second_signal_stops_at_once(unbroken: Path, tmp_path: Path, number: int, phase: str) -> None:
    """With the cache of `unbroken`: equal weights need the attention that was measured there."""
    path, data = tmp_path / "run", tmp_path / "pets"
    write_images(data, {"cat": 20, "dog": 20}, size=(8, 8))
    arguments = [*TRAIN, "-o", str(path)] if phase == "saving" else ["train", "--dataset", str(data), "-o", str(path)]
    process = Forked(str(int(number)), phase, *arguments, code=TWICE)
    _, errors = process.communicate()
    assert process.returncode == -number, errors
    if phase == "saving":
        assert run(["train", "--resume", str(path), "--quiet"]) == 0
        assert weights(path) == weights(unbroken)
    else:
        assert run([*TRAIN, "-o", str(path)]) == 0


IN_ITS_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def test_a_terminal_that_is_closed_stops_the_run_which_saves(tmp_path: Path) -> None:
    """Writing to it fails then, before the signal comes or after."""
    path = tmp_path / "run"
    arguments = [*TRAIN, "--epochs", "1000", "-o", str(path)]
    command = [sys.executable, "-c", IN_ITS_TERMINAL, sys.executable, "-m", "cctkit", *arguments]
    command.remove("--quiet")
    terminal, side = pty.openpty()
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, start_new_session=True)
    os.close(side)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path / "metrics.jsonl").exists():
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    assert process.wait(timeout=60) == 129
    done = len((path / "metrics.jsonl").read_text().splitlines())
    newest = max((path / "checkpoints").iterdir()).name
    assert 6 * done < int(newest.removeprefix("step-")) <= 6 * (done + 1)  # of 6 steps an epoch: saved in the midst of one
