"""`cctkit bench` as a user meets it: a small model in one short round, its JSON and its tables."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cctkit.bench import measure as measure_module
from cctkit.catalog.counts import count
from cctkit.catalog.models import named_config
from cctkit.cli.bench import bench
from cctkit.errors import UserError

CONTRACT = {
    "model",
    "batch_size",
    "plain_step",
    "plain_epoch",
    "step",
    "epoch",
    "plain_inference",
    "inference",
    "floor",
    "plain_peak_bytes",
    "peak_bytes",
}
SPEEDS = CONTRACT - {"model", "batch_size", "plain_peak_bytes", "peak_bytes"} | {"inference_floor"}

ROW = {
    "model": "cct_2_3x2",
    "batch_size": 128,
    "plain_step": 400.0,
    "step": 1000.0,
    "floor": 1250.0,
    "plain_epoch": 300.0,
    "epoch": 950.0,
    "plain_inference": 2000.0,
    "inference": 4000.0,
    "inference_floor": 5000.0,
    "plain_peak_bytes": 100 * 2**20,
    "peak_bytes": 45 * 2**20,
}
RESULT: dict[str, Any] = {
    "schema_version": 1,
    "device": "cpu",
    "precision": "bf16",
    "policy": {"precision": "bf16", "threads": 2, "attention": "chunked", "attention_in_evaluation": "fused"},
    "cpu": "a processor",
    "gpu": None,
    "torch": "2.9.0",
    "rows": [ROW, ROW | {"model": "cct_6_3x1", "plain_step": 15.25}],
}

TABLES = """\
a processor, 2 threads, torch 2.9.0, batch 128; ours in bf16, attention chunked in training, fused in inference

a training step, images/s
model      plain   ours  floor  ours/plain  ours/floor
cct_2_3x2    400  1,000  1,250        2.50        0.80
cct_6_3x1   15.2  1,000  1,250       65.57        0.80

whole epochs with their data, images/s
model      plain  ours  ours/plain  epoch/step
cct_2_3x2    300   950        3.17        0.95
cct_6_3x1    300   950        3.17        0.95

inference, images/s
model      plain   ours  floor  ours/plain  ours/floor
cct_2_3x2  2,000  4,000  5,000        2.00        0.80
cct_6_3x1  2,000  4,000  5,000        2.00        0.80

peak memory of a training step, MB
model      plain  ours  ours/plain
cct_2_3x2    100    45        0.45
cct_6_3x1    100    45        0.45

"""


def test_a_small_model_is_measured_whole() -> None:
    """The real thing, in three processes; which figures come out is no matter here."""
    arguments = ["--model", "cct_2_3x2", "--batch-size", "8", "--image-size", "8", "--num-classes", "5", "--quick", "--json"]
    command = [sys.executable, "-m", "cctkit", "bench", *arguments, "--threads", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["device"]) == (1, "cpu")
    assert document["precision"] in {"float32", "bf16"}
    assert document["policy"]["threads"] == 1
    (row,) = document["rows"]
    assert row.keys() >= CONTRACT
    assert (row["model"], row["batch_size"]) == ("cct_2_3x2", 8)
    assert all(isinstance(row[key], float) and row[key] > 0 for key in SPEEDS)
    weights = count(named_config("cct_2_3x2", num_classes=5, image_size=8)).weights
    assert min(row["plain_peak_bytes"], row["peak_bytes"]) > 4 * 4 * weights  # with their gradients and AdamW's moments
    assert "cct_2_3x2 (1/1) round 1: " in done.stderr


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `measure` gives, and in `asked` what it is asked for."""
    result = json.loads(json.dumps(RESULT))

    def measure(tasks: Any, **options: Any) -> dict[str, Any]:
        result["asked"] = (tasks, options)
        return {key: value for key, value in result.items() if key != "asked"}

    monkeypatch.setattr(measure_module, "measure", measure)
    return result


def test_the_tables_show_the_machine_the_speeds_and_their_ratios(
    measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    bench()
    out = capsys.readouterr().out
    assert out.startswith(TABLES)
    assert "floor is wrong" not in out
    assert "never run" not in out


def test_more_than_the_floor_and_an_unmeasured_device_are_said(
    measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    measured["rows"][1]["step"] = 1251.0
    measured |= {"device": "cuda", "gpu": "a GPU"}
    bench()
    out = capsys.readouterr().out
    assert out.startswith("a GPU, torch 2.9.0")
    assert "then the floor is wrong" in out
    assert "On CUDA this command was never run by its authors" in out


def test_six_models_of_the_report_are_measured_unless_others_are_named(measured: dict[str, Any]) -> None:
    bench(as_json=True)
    tasks, options = measured["asked"]
    assert [task.model for task in tasks] == ["cct_2_3x2", "cct_4_3x2", "cct_6_3x2", "cct_6_3x1", "cvt_6_4", "vit_lite_6_4"]
    assert {(task.batch_size, task.num_classes, task.image_size, task.threads) for task in tasks} == {(128, 100, None, None)}
    assert options["effort"].least_rounds > 1
    bench(model=["cvt_7_4", "cct_2_3x2"], image_size="48x32", threads=3, batch_size=4, num_classes=2, quick=True)
    tasks, options = measured["asked"]
    assert [task.model for task in tasks] == ["cvt_7_4", "cct_2_3x2"]
    assert {(task.batch_size, task.num_classes, task.image_size, task.threads) for task in tasks} == {(4, 2, (48, 32), 3)}
    assert options["effort"].most_rounds == 1


def test_a_device_that_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="bench cannot measure 'mps', expected auto, cpu, cuda"):
        bench(device="mps")
