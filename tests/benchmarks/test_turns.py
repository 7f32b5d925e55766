"""The benchmark's processes: what is made of their answers, and what becomes of it where one fails."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import process
from benchmarks.speed import turns as measure_module
from benchmarks.speed.process import Worker
from benchmarks.speed.turns import Effort, measure
from benchmarks.speed.worker import _answer
from cctkit.bench.task import Task
from cctkit.errors import ResourceError, UserError
from tests.processes import PATIENCE_S

TASKS = [Task(model="cct_2_3x2", device="auto", batch_size=8), Task(model="cvt_6_4", device="auto", batch_size=8)]
EFFORT = Effort(warm_s=7, turn_s=0.01, least_rounds=3, most_rounds=3, model_s=0.0)

# Speaks the workers' protocol without torch: a turn's speed is known, the n-th turn of each kind is n times it. Before the
# first one it wants to be warmed up.
STUB = """
import json, os, signal, sys, time
kind, how = sys.argv[1:]
turns = {}
for line in sys.stdin:
    what, options = json.loads(line)
    error = None
    if kind == "plain" and options.get("what") == "epoch":
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raises":
            raise ZeroDivisionError("of the stub")
        if how == "memory":
            error = ["memory ran out", None, "a smaller --batch-size", True]
        if how == "user":
            error = ["the model is odd", "--model", None, False]
    if what == "start":
        answer = {"policy": {"device": "cpu", "precision": "bf16", "threads": 2}, "cpu": "stub"}
    if what == "load":
        answer = {"plain": 2000, "ours": 1000, "floor": None}[kind]
        assert options["task"]["device"] == "cpu"
        turns.clear()
    if what == "turn":
        name = "warm-up" if options["aim_s"] == 7 else options["what"]
        assert name == "warm-up" or "warm-up" in turns
        turns[name] = turns.get(name, 0) + 1
        speed = {"step": 100, "epoch": 10, "inference": 1000, "warm-up": -7}[name]
        answer = turns[name] * speed * {"plain": 1, "ours": 3}[kind]
    if what == "measure":
        answer = {"step": 0.016, "inference": 0.001}
    print(json.dumps([None if error else answer, error]), flush=True)
"""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """The workers that `measure` starts, as they come."""
    started: list[Worker] = []

    class Watched(Worker):
        def __init__(self, kind: str) -> None:
            super().__init__(kind)
            started.append(self)

    monkeypatch.setattr(measure_module, "Worker", Watched)
    return started


def stub(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(process, "command", lambda kind: [sys.executable, "-c", STUB, kind, how])


def test_a_row_has_the_median_of_every_turn_and_the_floor(monkeypatch: pytest.MonkeyPatch, workers: list[Worker]) -> None:
    stub(monkeypatch, "fine")
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
    assert all(worker.process.returncode is not None for worker in workers)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("killed", ResourceError, "the plain process was killed by signal 9"),
        ("raises", RuntimeError, "ZeroDivisionError: of the stub"),
        ("memory", ResourceError, "memory ran out; the plain process; a smaller --batch-size"),
        ("user", UserError, "the model is odd; --model"),
    ],
)
def test_a_failure_in_one_process_is_reported_and_ends_the_others(
    how: str, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch, workers: list[Worker]
) -> None:
    stub(monkeypatch, how)
    start = time.monotonic()
    with pytest.raises(error) as raised:
        measure(TASKS, effort=EFFORT)
    assert time.monotonic() - start < PATIENCE_S  # it did not wait for the others
    assert type(raised.value) is error
    assert words in str(raised.value)
    assert [worker.kind for worker in workers] == ["ours", "plain", "floor"]
    assert all(worker.process.returncode is not None for worker in workers)


def test_a_process_that_cannot_start_is_reported() -> None:
    with Worker("nobody") as worker, pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        worker.ask("load")


def test_a_process_is_ended_in_the_middle_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "command", lambda kind: [sys.executable, "-c", "import time; time.sleep(6000)"])
    start = time.monotonic()
    with Worker("plain") as worker:
        pass
    assert time.monotonic() - start < PATIENCE_S
    assert worker.process.returncode is not None


def test_nothing_is_started_for_a_model_that_is_not_there(workers: list[Worker]) -> None:
    with pytest.raises(UserError, match="unknown model"):
        measure([*TASKS, Task(model="cct_2", device="auto")], effort=EFFORT)
    assert workers == []


def test_memory_that_runs_out_is_the_users_and_any_other_error_a_bug() -> None:
    def runs_out() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 137438953472 bytes")

    def fails() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert _answer(lambda: 5, {}) == [5, None]
    assert _answer(runs_out, {}) == [None, ["memory ran out", None, "a smaller --batch-size", True]]
    with pytest.raises(RuntimeError, match="shapes"):
        _answer(fails, {})


def test_the_process_that_waits_for_the_others_has_no_torch(tmp_path: Path) -> None:
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
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=process.ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| `cct_2_3x2` |") == 4
    assert "cct_2_3x2 (1/1) round 1: " in done.stderr
