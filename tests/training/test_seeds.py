"""`--seeds`: several runs as one job, resumed where it stopped; each is the run of its seed, and one row of `compare`."""

import json
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.jobs import lines, sha256
from cctkit.api import SilentReporter, fit
from cctkit.cli import app
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError, UserError
from cctkit.runs.comparison import find_runs
from cctkit.runs.paths import newest_run
from cctkit.runs.seeds import summarize_seeds
from cctkit.training.request import Request
from cctkit.training.seeds import resume_seeds, start_seeds
from tests.conftest import write_images
from tests.training.jobs import ForkedJob
from tests.training.timed import Clock, timed


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """48 images to train with, 8 test images."""
    folder = tmp_path_factory.mktemp("images")
    for role, number in (("train", 24), ("test", 4)):
        write_images(folder / role, {"a": number, "b": number}, size=(8, 8))
    return {
        "model": "cct_2_3x2", "dataset": str(folder), "image_size": "8", "batch_size": 24, "optimizer": "adamw",
        "dropout": 0.1, "precision": "float32", "epochs": 2, "seed": 4,
    }  # fmt: skip


class Stopping(SilentReporter):
    """Asks to stop after so many epochs."""

    def __init__(self, stop: StopRequest, after: int) -> None:
        self.stop, self.after, self.notices = stop, after, list[str]()

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.after -= 1
        if self.after == 0:
            self.stop.signal_number = signal.SIGINT


@pytest.fixture(scope="module")
def resumed(settings: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, list[str]]:
    """Three seeds, stopped after the third epoch of six, and resumed; when the first result was written; the notices."""
    out = tmp_path_factory.mktemp("seeds") / "out"
    stop = StopRequest()
    request = Request(flags=settings, file_values={}, recipe="fast", output=out)
    with pytest.raises(StoppedError) as raised:
        start_seeds(request, 3, reporter=Stopping(stop, 3), stop=stop)
    assert str(raised.value) == f"stopped and saved; resume with: cctkit train --resume {out}"
    assert raised.value.exit_code == 130
    assert {item.name for item in out.iterdir()} == {".cctkit.lock", "seeds.json", "seed-4", "seed-5"}
    assert not (out / "seed-5" / "result.json").exists()
    written = (out / "seed-4" / "result.json").stat().st_mtime_ns
    reporter = Stopping(StopRequest(), 0)
    path, summary = resume_seeds(out, {}, reporter=reporter, stop=StopRequest())
    assert path == out
    assert summary == json.loads((out / "summary.json").read_text())
    return out, written, reporter.notices


def test_a_resumed_job_repeats_no_finished_run(resumed: tuple[Path, float, list[str]]) -> None:
    out, written, notices = resumed
    assert (out / "seed-4" / "result.json").stat().st_mtime_ns == written
    assert [note for note in notices if note.startswith("seed ")] == ["seed 5: run 2 of 3", "seed 6: run 3 of 3"]
    assert f"resuming {out / 'seed-5'}" in notices


def test_every_run_is_bit_for_bit_the_run_of_its_seed(
    resumed: tuple[Path, float, list[str]], settings: Mapping[str, Any], tmp_path: Path
) -> None:
    for seed in (5, 6):
        alone = tmp_path / str(seed)
        fit(**{**settings, "seed": seed}, recipe="fast", output=alone)
        for name in ("weights.safetensors", "predictions.safetensors"):
            assert sha256(resumed[0] / f"seed-{seed}" / name) == sha256(alone / name)
        assert lines(resumed[0] / f"seed-{seed}") == lines(alone)


def write_results(out: Path, top1: Mapping[int, float]) -> None:
    """A directory of finished seeds, as far as their results tell."""
    request = {"flags": {}, "file_values": {}, "file_name": "", "recipe": None, "time": None}
    out.mkdir()
    (out / "seeds.json").write_text(json.dumps({"schema_version": 1, "seeds": [*top1], "request": request}))
    for seed, percent in top1.items():
        (out / f"seed-{seed}").mkdir()
        result = {
            "schema_version": 1, "model": "cct_2_3x2", "dataset": "mine", "num_images": 200, "epochs": 3, "seed": seed,
            "top1_percent": percent, "top1_interval_percent": [percent - 4, percent + 2], "loss": percent / 100,
            "params": {"total": 1000, "without_embeddings": 900}, "recipe": "fast",
        }  # fmt: skip
        (out / f"seed-{seed}" / "result.json").write_text(json.dumps(result))


def test_the_summary_has_the_mean_the_spread_over_seeds_and_the_interval_over_images(tmp_path: Path) -> None:
    write_results(tmp_path / "out", {0: 90.0, 1: 92.0, 2: 97.0})
    summary = summarize_seeds(tmp_path / "out")
    assert summary["top1_percent"] == pytest.approx(93.0)
    assert summary["top1_std_percent"] == pytest.approx(13**0.5)  # (9 + 1 + 16) / 2
    assert summary["top1_interval_percent"] == pytest.approx([89.0, 95.0])
    assert summary["loss"] == pytest.approx(0.93)
    assert (summary["seeds"], summary["epochs"], summary["num_images"]) == ([0, 1, 2], 3, 200)


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    write_results(tmp_path / "out", {7: 90.0})
    assert summarize_seeds(tmp_path / "out")["top1_std_percent"] is None


def test_compare_has_one_row_for_all_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "out", {0: 90.0, 1: 92.0, 2: 97.0})
    assert app.run(["compare", "--runs", str(tmp_path), "--no-published", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["top1_percent"], row["seeds"], row["seed"], row["run"]) == (93.0, 3, None, str(tmp_path / "out"))
    assert row["top1_std_percent"] == pytest.approx(13**0.5)
    assert row["top1_interval_percent"] == [89.0, 95.0]
    assert app.run(["compare", "--runs", str(tmp_path / "out"), "--no-published"]) == 0
    text = capsys.readouterr().out
    assert {"93.00", "3.61", "89.00-95.00"} <= set(text.split())
    assert "3 seeds" in text


def test_compare_skips_seeds_that_are_not_all_finished(tmp_path: Path) -> None:
    write_results(tmp_path / "out", {0: 90.0, 1: 92.0})
    (tmp_path / "out" / "seed-1" / "result.json").unlink()
    rows, skipped = find_runs(tmp_path)
    assert (rows, skipped) == ([], {str(tmp_path / "out"): "1 of 2 seeds are finished"})


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ("{}", "it lacks request, schema_version, seeds"),
        ('{"schema_version": 2, "seeds": [0], "request": {}}', "schema version 2, expected 1"),
        ('{"schema_version": 1, "seeds": [0, 0], "request": {}}', "the seeds are not different numbers from 0 on"),
        ('{"schema_version": 1, "seeds": ["../x"], "request": {}}', "the seeds are not different numbers from 0 on"),
        ('{"schema_version": 1, "seeds": [0], "request": {"flags": {}}}', "request lacks file_name, file_values, recipe, time"),
    ],
)
def test_a_malformed_list_of_seeds_is_named(stored: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "seeds.json").write_text(stored)
    with pytest.raises(UserError) as raised:
        resume_seeds(tmp_path, {}, reporter=SilentReporter(), stop=StopRequest())
    assert raised.value.what == f"seeds.json is malformed: {problem}"


def test_a_job_that_fails_before_its_first_step_leaves_nothing_behind(settings: Mapping[str, Any], tmp_path: Path) -> None:
    request = Request(flags={**settings, "batch_size": 4000}, file_values={}, output=tmp_path / "out")
    with pytest.raises(UserError, match="larger than the 48 training images"):
        start_seeds(request, 2, reporter=SilentReporter(), stop=StopRequest())
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_was_killed_before_its_first_step_is_resumed(
    resumed: tuple[Path, float, list[str]], settings: Mapping[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stored = json.loads((resumed[0] / "seeds.json").read_text())
    (out / "seeds.json").write_text(json.dumps(stored | {"seeds": [4]}))
    resume_seeds(out, {"workers": 0}, reporter=SilentReporter(), stop=StopRequest())
    assert sha256(out / "seed-4" / "weights.safetensors") == sha256(resumed[0] / "seed-4" / "weights.safetensors")


def test_with_a_time_budget_all_seeds_train_the_epochs_of_the_first(settings: Mapping[str, Any], tmp_path: Path) -> None:
    flags = {key: value for key, value in settings.items() if key != "epochs"}
    clock = Clock(step_s=3.0)
    with timed(clock):
        request = Request(flags=flags, file_values={}, output=tmp_path / "out", time="60s")
        stop = StopRequest()
        reporter = Stopping(stop, 1)
        with pytest.raises(StoppedError):
            start_seeds(request, 2, reporter=reporter, stop=stop)
        clock.step_s = 30.0
        _, summary = resume_seeds(tmp_path / "out", {}, reporter=SilentReporter(), stop=StopRequest())
    epochs = [run["epochs"] for run in summary["runs"]]
    assert epochs[0] == epochs[1] >= 2


def test_the_command_prints_a_line_per_seed_and_the_mean(
    settings: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    words = ["train", settings["dataset"], "--image-size", "8", "-e", "1", "-b", "24", "--precision", "float32", "-q"]
    assert app.run([*words, "-o", out, "--seeds", "2"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[:2] for line in text.splitlines()[:2]] == [["seed", "0"], ["seed", "1"]]
    assert "mean of 2 seeds: top-1 " in text
    assert "standard deviation over seeds " in text
    assert f"runs: {out}\nnext: cctkit compare --runs {out}\n" in text
    assert app.run(["train", "--resume", out, "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert app.run(["train", "--resume", out, "--epochs", "5"]) == 2
    assert "error: a resumed run keeps its settings: epochs is 1, got 5" in capsys.readouterr().err
    assert app.run(["eval", out]) == 2
    assert "this is a directory of several seeds, expected one run" in capsys.readouterr().err
    assert newest_run(tmp_path).parent.name == "out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--seeds", "2", "--resume", "runs/x"], "error: --seeds cannot be given with --resume"),
        (["--seeds", "2", "--seed", str(2**63 - 1)], "error: seed is too large"),
    ],
)
def test_bad_uses_of_the_option_end_with_a_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if "--resume" in arguments else ["-o", str(tmp_path / "out")]
    assert app.run(["train", "digits", *where, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_several_ranks_train_all_seeds_and_one_prints(settings: Mapping[str, Any], tmp_path: Path) -> None:
    words = ["--image-size", "8", "-e", "1", "-b", "24", "--precision", "float32", "--threads", "1", "--seeds", "2"]
    job = ForkedJob(2, "train", settings["dataset"], *words, "-o", tmp_path / "out")
    out, err = job.communicate()
    assert job.returncode == 0, err
    assert out.count("mean of 2 seeds: top-1 ") == 1
    assert {item.name for item in (tmp_path / "out").iterdir()} >= {"seeds.json", "summary.json", "seed-0", "seed-1"}


def test_a_directory_of_seeds_in_use_is_refused(resumed: tuple[Path, float, list[str]], tmp_path: Path) -> None:
    from cctkit.errors import InUseError
    from cctkit.runs.rundir import RunDir

    shutil.copytree(resumed[0], tmp_path / "out")
    with RunDir.open_seeds(tmp_path / "out"), pytest.raises(InUseError):
        resume_seeds(tmp_path / "out", {}, reporter=SilentReporter(), stop=StopRequest())
