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
    "step_images_per_s",
    "epoch_images_per_s",
    "inference_images_per_s",
    "peak_bytes",
    "run_seconds",
}

ROW = {
    "model": "cct_2_3x2",
    "batch_size": 128,
    "step_images_per_s": 1000.0,
    "epoch_images_per_s": 950.0,
    "inference_images_per_s": 4000.0,
    "peak_bytes": 45 * 2**20,
    "run_seconds": 1578.9,
}
RESULT: dict[str, Any] = {
    "schema_version": 2,
    "policy": {"device": "cpu", "precision": "bf16", "threads": 2, "attention": "chunked", "attention_in_evaluation": "fused"},
    "cpu": "a processor",
    "gpu": None,
    "torch": "2.9.0",
    "run": {"num_images": 50_000, "epochs": 30},
    "rows": [ROW, ROW | {"model": "cct_6_3x2", "step_images_per_s": 15.25, "run_seconds": 15_100.0}],
}

TABLE = """\
a processor, 2 threads, torch 2.9.0, batch 128; bf16, attention chunked in training, fused in inference

               step     epoch  inference  memory
model      images/s  images/s   images/s      MB
cct_2_3x2     1,000       950      4,000      45
cct_6_3x2      15.2       950      4,000      45

cct_2_3x2, 50,000 images, 30 epochs: about 26 min
cct_6_3x2, 50,000 images, 30 epochs: about 4.2 h

"""


def test_a_small_model_is_measured_whole() -> None:
    """The real thing; which figures come out is no matter here."""
    arguments = ["--model", "cct_2_3x2", "--batch-size", "8", "--image-size", "8", "--num-classes", "5", "--quick", "--json"]
    command = [sys.executable, "-m", "cctkit", "bench", *arguments, "--threads", "1", "--device", "cpu", "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["policy"]["device"], document["policy"]["threads"]) == (2, "cpu", 1)
    (row,) = document["rows"]
    assert row.keys() == CONTRACT
    assert (row["model"], row["batch_size"]) == ("cct_2_3x2", 8)
    assert all(row[key] > 0 for key in CONTRACT - {"model"})
    assert row["run_seconds"] == pytest.approx(2 * 50_000 / row["epoch_images_per_s"])
    weights = count(named_config("cct_2_3x2", num_classes=5, image_size=8)).weights
    assert row["peak_bytes"] > 4 * 4 * weights  # with their gradients and AdamW's moments
    assert [line[:16] for line in done.stderr.splitlines()] == ["cct_2_3x2 (1/1) "] * 2  # and nothing of torch's profiler


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `measure` gives, and in `asked` what it is asked for."""
    result = json.loads(json.dumps(RESULT))

    def measure(tasks: Any, **options: Any) -> dict[str, Any]:
        result["asked"] = (tasks, options)
        return {key: value for key, value in result.items() if key != "asked"}

    monkeypatch.setattr(measure_module, "measure", measure)
    return result


def test_the_table_shows_the_machine_the_speeds_and_how_long_a_run_would_take(
    measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    bench()
    out = capsys.readouterr().out
    assert out.startswith(TABLE)
    assert "never run" not in out


def test_the_output_says_that_cuda_is_untested(measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    measured["policy"]["device"] = "cuda"
    measured["gpu"] = "a GPU"
    bench()
    out = capsys.readouterr().out
    assert out.startswith("a GPU, torch 2.9.0")
    assert "This command has never been tested on CUDA" in out


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (720, "12 min"), (5400, "1.5 h"), (100_000, "28 h"), (260_000, "3 days")]
)
def test_a_duration_has_two_digits(
    seconds: float, words: str, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    measured["rows"][0]["run_seconds"] = seconds
    bench()
    assert f"30 epochs: about {words}\n" in capsys.readouterr().out


def test_six_models_of_the_report_are_measured_unless_others_are_named(measured: dict[str, Any]) -> None:
    bench(as_json=True)
    tasks, options = measured["asked"]
    assert [task.model for task in tasks] == ["cct_2_3x2", "cct_4_3x2", "cct_6_3x2", "cct_6_3x1", "cvt_6_4", "vit_lite_6_4"]
    assert {(task.batch_size, task.num_classes, task.image_size, task.threads) for task in tasks} == {(128, 100, None, None)}
    assert options["effort"].rounds > 1
    bench(model=["cvt_7_4", "cct_2_3x2"], image_size="48x32", threads=3, batch_size=4, num_classes=2, quick=True)
    tasks, options = measured["asked"]
    assert [task.model for task in tasks] == ["cvt_7_4", "cct_2_3x2"]
    assert {(task.batch_size, task.num_classes, task.image_size, task.threads) for task in tasks} == {(4, 2, (48, 32), 3)}
    assert options["effort"].rounds == 1


def test_a_device_that_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="bench cannot measure 'mps', expected auto, cpu, cuda"):
        bench(device="mps")
