"""`--track tensorboard` and reporters from Python: what was written is read back by TensorBoard's own reader."""

import errno
import importlib.util
import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.jobs import PATIENCE_S
from cctkit import Reporter, fit
from cctkit.api import SilentReporter
from cctkit.cli import app
from cctkit.engine.signals import StopRequest
from cctkit.errors import DiskError, StoppedError, UserError
from cctkit.runs.runfiles import read_metrics
from cctkit.training.reporter import Progress, StartedRun
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from tests.conftest import write_images
from tests.training.jobs import ForkedJob

installed = importlib.util.find_spec("tensorboard") is not None
with_tensorboard = pytest.mark.skipif(not installed, reason="tensorboard is not installed: pip install 'cctkit[tensorboard]'")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """48 images to train with, 8 test images."""
    folder = tmp_path_factory.mktemp("images")
    for role, number in (("train", 24), ("test", 4)):
        write_images(folder / role, {"a": number, "b": number}, size=(8, 8))
    return {
        "model": "cct_2_3x2", "dataset": str(folder), "image_size": "8", "batch_size": 24, "precision": "float32", "epochs": 2,
        "val_fraction": 0.25,
    }  # fmt: skip


class Stopping(SilentReporter):
    """Asks to stop in the epoch after so many."""

    def __init__(self, stop: StopRequest, after: int) -> None:
        self.stop, self.after = stop, after

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        if record["epoch"] == self.after:
            self.stop.signal_number = signal.SIGINT


def stopped(settings: Mapping[str, Any], path: Path, *, after: int) -> None:
    """A run that is stopped in the epoch after so many."""
    stop = StopRequest()
    request = Request(flags=settings, file_values={}, recipe="fast", output=path)
    with pytest.raises(StoppedError):
        start_run(request, reporter=Stopping(stop, after), stop=stop)


def resume(path: Path, **flags: Any) -> None:
    resume_run(path, flags, reporter=SilentReporter(), stop=StopRequest())


def read(run: Path) -> Any:
    """All events of a run, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run).Scalars(tag)]


def assert_complete(run: Path) -> None:
    """Each epoch of the metrics, the result and the picture are there once."""
    records, found = read_metrics(run / "metrics.jsonl"), read(run)
    for key, tag in {"lr": "lr", "train_loss": "loss/train", "val_top1_percent": "top1_percent/val"}.items():
        expected = [(record["epoch"], pytest.approx(record[key], rel=1e-6)) for record in records]
        assert [(event.step, event.value) for event in found.Scalars(tag)] == expected
    top1 = json.loads((run / "result.json").read_text())["top1_percent"]
    assert [(each.step, each.value) for each in found.Scalars("result/top1_percent")] == [(len(records), pytest.approx(top1))]
    assert [(each.step, each.encoded_image_string) for each in found.Images("curves")] == [
        (len(records), (run / "curves.png").read_bytes())
    ]
    (text,) = found.Tensors("settings/text_summary")
    stored = json.loads((run / "config.json").read_text())
    values = {**stored["values"], "recipe": stored["recipe"], "track": "tensorboard"}  # which may be given at the resume
    assert json.loads(text.tensor_proto.string_val[0]) == values


@with_tensorboard
def test_all_figures_settings_and_pictures_are_read_back_and_nothing_is_sent(
    settings: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    fit(**settings, track="tensorboard", output=tmp_path / "run")
    assert_complete(tmp_path / "run")
    (record, *_), found = read_metrics(tmp_path / "run" / "metrics.jsonl"), read(tmp_path / "run")
    figures = {key for key, value in record.items() if value is not None} - {"epoch", "step"}
    assert len([tag for tag in found.Tags()["scalars"] if not tag.startswith("result/")]) == len(figures)
    assert {"images_per_s", "train_seconds", "balanced_accuracy_percent/val", "loss_smoothed/train"} <= {
        *found.Tags()["scalars"]
    }
    assert [path.name for path in (tmp_path / "run" / "tensorboard").iterdir()] == ["events.out.tfevents.000000"]
    metadata = found.summary_metadata["_hparams_/session_start_info"]
    session = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert (session["batch_size"].number_value, session["model"].string_value) == (24, "cct_2_3x2")


@pytest.fixture(scope="module")
def half(settings: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracked run that was stopped after its first epoch of two."""
    path = tmp_path_factory.mktemp("half") / "run"
    stopped({**settings, "track": "tensorboard"}, path, after=1)
    return path


def last_record(data: bytes) -> int:
    """Where the last record of an event file begins: each has 8 bytes for its length, 4, its contents, and 4."""
    start = end = 0
    while end < len(data):
        start, end = end, end + 16 + int.from_bytes(data[end : end + 8], "little")
    return start


@with_tensorboard
@pytest.mark.parametrize("kill", ["after the record", "before the record", "within the record"])
def test_a_resumed_run_goes_on_without_a_gap_or_a_repeated_step(half: Path, tmp_path: Path, kill: str) -> None:
    run = Path(shutil.copytree(half, tmp_path / "run"))
    (file,) = (run / "tensorboard").iterdir()
    data = file.read_bytes()
    kept = {"after the record": len(data), "before the record": last_record(data), "within the record": last_record(data) + 20}
    file.write_bytes(data[: kept[kill]])
    resume(run)
    assert_complete(run)
    if kill == "after the record":  # a finished run writes its result again
        resume(run)
        assert_complete(run)


@with_tensorboard
def test_tracking_that_begins_or_ends_when_a_run_is_resumed(settings: Mapping[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped(settings, run, after=1)
    assert not (run / "tensorboard").exists()
    resume(run, track="tensorboard")
    assert_complete(run)
    resume(run, track="none")
    assert len(list((run / "tensorboard").iterdir())) == 1


@with_tensorboard
def test_each_seed_has_events_of_its_own(settings: Mapping[str, Any], tmp_path: Path) -> None:
    summary = fit(**{**settings, "epochs": 1}, track="tensorboard", seeds=2, output=tmp_path / "out")
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    for seed in summary["seeds"]:
        assert_complete(tmp_path / "out" / f"seed-{seed}")


@with_tensorboard
@pytest.mark.parametrize("place", ["files", "tensorboard"])
def test_a_full_disk_ends_the_run_so_that_it_can_be_resumed(
    settings: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """In the first write, which is atomic, and in that of the first epoch."""
    from cctkit import files
    from cctkit.training import tensorboard

    def full(path: Path, mode: str) -> Any:
        if "tfevents" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr({"files": files, "tensorboard": tensorboard}[place], "open", full, raising=False)
        with pytest.raises(DiskError) as raised:
            fit(**settings, track="tensorboard", output=tmp_path / "run")
    assert raised.value.exit_code == 4
    assert raised.value.remedy == f"free some space, then resume with: cctkit train --resume {tmp_path / 'run'}"
    resume(tmp_path / "run")
    assert_complete(tmp_path / "run")


@with_tensorboard
@pytest.mark.slow
def test_of_several_ranks_only_the_first_writes(settings: Mapping[str, Any], tmp_path: Path) -> None:
    words = ["--image-size", "8", "-e", "2", "-b", "24", "--val-fraction", "0.25", "--precision", "float32", "--threads", "1"]
    job = ForkedJob(2, "train", settings["dataset"], *words, "--track", "tensorboard", "-o", tmp_path / "run")
    _, err = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, err
    assert_complete(tmp_path / "run")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_without_the_package_nothing_begins(
    settings: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else known(name, *rest))
    words = ["train", settings["dataset"], "--track", "tensorboard", "-o", str(tmp_path / "run")]
    assert app.run(words) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[0] == "error: tensorboard is not installed"
    assert "pip install 'cctkit[tensorboard]'" in error
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="tensorboard is not installed"):
        fit(**settings, track="tensorboard", output=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_tracked_is_not_resumed_without_the_package(
    settings: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(settings, tmp_path / "run", after=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(UserError, match="tensorboard is not installed"):
        resume(tmp_path / "run", track="tensorboard")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_folder_with_the_name_of_the_package_is_not_the_package(
    settings: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None, is_package=True))
    with pytest.raises(UserError, match="tensorboard is not installed"):
        Request(flags={**settings, "track": "tensorboard"}, file_values={})


class Heard(Reporter):
    """All calls but those that depend on the clock."""

    log_every_s = 0.0

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def started(self, run: StartedRun) -> None:
        self.calls.append(("started", run))

    def progress(self, now: Progress) -> None:
        self.calls.append(("progress", now.step))

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.calls.append(("epoch", dict(record)))

    def finished(self, result: Mapping[str, Any]) -> None:
        self.calls.append(("finished", result))


def test_a_reporter_from_python_gets_settings_epochs_and_result_in_order(settings: Mapping[str, Any], tmp_path: Path) -> None:
    heard, run = Heard(), tmp_path / "run"
    result = fit(**settings, output=run, reporter=heard)
    assert [name for name, _ in heard.calls] == ["started", *["progress", "progress", "epoch"] * 2, "finished"]  # 36 images
    started = heard.calls[0][1]
    assert (started.path, list(started.records)) == (run, [])
    assert started.settings == json.loads((run / "config.json").read_text())["values"]
    assert [record for name, record in heard.calls if name == "epoch"] == read_metrics(run / "metrics.jsonl")
    assert heard.calls[-1][1] == result
    again = Heard()
    resume_run(run, {}, reporter=again, stop=StopRequest())
    assert [name for name, _ in again.calls] == ["started", "finished"]
    assert list(again.calls[0][1].records) == read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize("seeds", [0, -1, 1.5, "2"])
def test_a_wrong_number_of_seeds_is_refused_from_python(settings: Mapping[str, Any], tmp_path: Path, seeds: Any) -> None:
    with pytest.raises(UserError, match=r"^seeds is "):
        fit(**settings, seeds=seeds, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
