"""The benchmark's processes: what is made of their answers, and what happens if one fails."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import call
from benchmarks.speed import turns, worker
from benchmarks.speed.turns import Effort, measure
from cctkit.bench.task import Task
from cctkit.errors import ResourceError, UserError

TASKS = [Task(model="cct_2_3x2", device="auto", batch_size=8), Task(model="cvt_6_4", device="auto", batch_size=8)]
EFFORT = Effort(warm_s=7, turn_s=0.01, least_rounds=3, most_rounds=3, model_s=0.0)


class Stub(contextlib.AbstractContextManager["Stub"]):
    """Answers in place of a process: the n-th turn of each kind is n times a known speed. Before the first turn it expects to
    be warmed up."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.turns: dict[str, int] = {}

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(self.answer(function, *arguments))
        return future

    def answer(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if function is worker.start:
            return {"policy": {"device": "cpu", "precision": "bf16", "threads": 2}, "cpu": "stub"}
        if function is worker.load:
            kind, task = arguments
            assert (kind, task.device) == (self.kind, "cpu")
            self.turns.clear()
            return {"plain": 2000, "ours": 1000, "floor": None}[kind]
        if self.kind == "floor":
            assert arguments == ("measure", 8)
            return {"step": 0.016, "inference": 0.001}
        _, what, aim_s = arguments
        name = "warm-up" if aim_s == 7 else what
        assert name == "warm-up" or "warm-up" in self.turns
        self.turns[name] = self.turns.get(name, 0) + 1
        speed = {"step": 100, "epoch": 10, "inference": 1000, "warm-up": -7}[name]
        return self.turns[name] * speed * {"plain": 1, "ours": 3}[self.kind]


def test_a_row_has_the_median_of_every_turn_and_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = iter(("ours", "plain", "floor"))
    monkeypatch.setattr(turns, "fresh_process", lambda: Stub(next(kinds)))
    said: list[str] = []
    result = measure(TASKS, effort=EFFORT, notify=said.append)
    rows: list[dict[str, Any]] = result.pop("rows")
    policy = {"device": "cpu", "precision": "bf16", "threads": 2}
    assert result == {"schema_version": 1, "device": "cpu", "precision": "bf16", "cpu": "stub", "policy": policy}
    assert [row.pop("model") for row in rows] == ["cct_2_3x2", "cvt_6_4"]
    assert (
        rows
        == [
            {
                "batch_size": 8,
                "plain_step": 200,
                "step": 600,
                "plain_epoch": 20,
                "epoch": 60,
                "plain_inference": 2000,
                "inference": 6000,
                "floor": 500,
                "inference_floor": 8000,
                "plain_peak_bytes": 2000,
                "peak_bytes": 1000,
                "rounds": 3,
            }
        ]
        * 2
    )
    assert len(said) == 8
    assert said[-1] == "cvt_6_4 (2/2) round 3: a step of plain 300, ours 900, the floor 500 images/s"


def killed(_: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def odd(_: Task) -> None:
    raise UserError("the model is odd", "--model")


@pytest.mark.parametrize(
    ("start", "error", "words"),
    [(killed, ResourceError, "the ours process was killed"), (odd, UserError, "the model is odd; --model")],
)
def test_a_failure_in_one_process_is_reported(
    start: Callable[[Task], None], error: type[UserError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "start", start)
    with pytest.raises(error) as raised:
        measure(TASKS, effort=EFFORT)
    assert type(raised.value) is error
    assert words in str(raised.value)


def printing(name: str) -> tuple[int, str | None]:
    print("a library's words")
    return os.getpid(), os.environ.get(name)


def test_a_fresh_process_has_its_variables_and_keeps_stdout_free(capfd: pytest.CaptureFixture[str]) -> None:
    process, value = call(printing, "CCTKIT_TEST", CCTKIT_TEST="set")
    assert (process != os.getpid(), value, os.environ.get("CCTKIT_TEST")) == (True, "set", None)
    assert capfd.readouterr() == ("", "a library's words\n")


def test_nothing_is_started_for_an_unknown_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "fresh_process", lambda: pytest.fail("started"))
    with pytest.raises(UserError, match="unknown model"):
        measure([*TASKS, Task(model="cct_2", device="auto")], effort=EFFORT)


def test_the_process_that_waits_for_the_others_does_not_import_torch(tmp_path: Path) -> None:
    code = "import benchmarks.speed.turns, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_small_model_is_measured_in_three_processes_and_its_tables_are_printed() -> None:
    """The real thing; which figures come out is no matter here."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed",
        "--model",
        "cct_2_3x2",
        "--batch-size",
        "8",
        "--quick",
        "--threads",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| `cct_2_3x2` |") == 4
    assert "cct_2_3x2 (1/1) round 1: " in done.stderr
