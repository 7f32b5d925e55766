"""The time that is left of a training run, and the one word of advice where that is long."""

import io
from pathlib import Path
from typing import Any

import pytest

from cctkit.api import SilentReporter
from cctkit.catalog import recipes
from cctkit.catalog.recipes import RECIPES
from cctkit.cli import app
from cctkit.cli.progress import LiveReporter, PlainReporter, epoch_line
from cctkit.engine.signals import StopRequest
from cctkit.runs.runfiles import read_metrics
from cctkit.training import loop
from cctkit.training.reporter import Progress, StartedRun
from cctkit.training.request import Request
from cctkit.training.run import start_run


class Clock:
    """Stands still but for what is said to take time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Heard(SilentReporter):
    log_every_s = 0.0

    def __init__(self) -> None:
        self.all: list[Progress] = []
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def progress(self, now: Progress) -> None:
        self.all.append(now)


def test_the_first_step_of_an_epoch_is_not_in_the_time_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, heard, train_step = Clock(), Heard(), loop.train_step

    def timed_step(state: Any, *arguments: Any, **options: Any) -> None:
        clock.now_s += 2.0 if state.step else 500.0
        train_step(state, *arguments, **options)

    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "train_step", timed_step)
    flags = {"dataset": "digits", "model": "cct_2_3x2", "image_size": [8, 8], "batch_size": 479, "epochs": 1}
    request = Request(flags=flags, file_values={}, output=tmp_path / "run")
    start_run(request, reporter=heard, stop=StopRequest())
    assert [now.step_s for now in heard.all] == [None, 2.0, 2.0, 2.0]  # 1,438 images
    assert "(1,438 images, 10 classes, 8x8), recipe demo, 1 epoch, cpu" in heard.notices[0]
    assert f"recipe demo: {RECIPES['demo'].purpose}\n  expected: {RECIPES['demo'].expected}" in heard.notices


def told(*step_s: float | None) -> list[str]:
    """What is told of the first steps of ten epochs of 100, which have taken so long each."""
    stream = io.StringIO()
    reporter = PlainReporter(stream=stream)
    for step, seconds in enumerate(step_s, start=1):
        reporter.progress(
            Progress(epoch=0, epochs=10, step=step, steps=100, loss=1.5, lr=0.001, images_per_s=9.0, step_s=seconds)
        )
    return stream.getvalue().splitlines()


def test_without_an_estimate_no_time_and_no_advice_is_shown() -> None:
    assert told(None, 1.0) == [
        "epoch 1/10  step 1/100  loss 1.500  lr 1.00e-03  9 images/s",
        "epoch 1/10  step 2/100  loss 1.500  lr 1.00e-03  9 images/s  16:38 left",  # 998 s
    ]


def test_advice_is_given_once_if_a_run_takes_over_an_hour() -> None:
    lines = told(None, 4.0, 5.0)
    assert [line.startswith("this run will take about 1:06:32; faster: ") for line in lines] == [False, True, False, False]


FIGURES = {"epoch": 2, "lr": 1e-3, "train_loss": 0.5, "train_loss_smoothed": 0.75, "train_top1_percent": 80.0}


def test_an_epochs_line_shows_plain_cross_entropy_of_what_is_held_out_or_of_train() -> None:
    assert epoch_line(FIGURES, 10) == "epoch  2/10  train loss 0.500 top-1 80.00%  lr 1.00e-03"
    held_out = {"val_loss": 0.25, "val_loss_smoothed": 9.0, "val_top1_percent": 70.0}
    assert epoch_line(FIGURES | held_out, 10) == "epoch  2/10  train loss 0.500  val loss 0.250 top-1 70.00%  lr 1.00e-03"
    diverged = {"test_loss": None, "test_loss_smoothed": 9.0, "test_top1_percent": 10.0, "images_per_s": 1234.5}
    line = "epoch  2/10  train loss 0.500  test loss nan top-1 10.00%  lr 1.00e-03  1,234 images/s"
    assert epoch_line(FIGURES | diverged, 10) == line


def test_an_epochs_line_shows_balanced_accuracy_if_the_epoch_is_chosen_by_it() -> None:
    held_out = {"val_loss": 0.25, "val_top1_percent": 70.0, "val_balanced_accuracy_percent": 65.5}
    stream = io.StringIO()
    for choose_by in ("top1", "balanced", "loss"):
        reporter = PlainReporter(stream=stream)
        reporter.started(StartedRun(path=Path(), settings={"choose_by": choose_by}, recipe=None, records=()))
        reporter.epoch(FIGURES | held_out, 10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == lines[2] == "epoch  2/10  train loss 0.500  val loss 0.250 top-1 70.00%  lr 1.00e-03"
    assert lines[1] == "epoch  2/10  train loss 0.500  val loss 0.250 top-1 70.00% balanced 65.50%  lr 1.00e-03"


def test_the_loss_within_an_epoch_is_plain_cross_entropy(tmp_path: Path) -> None:
    heard = Heard()
    flags = {"dataset": "digits", "model": "cct_2_3x2", "image_size": [8, 8], "batch_size": 1438, "epochs": 1}
    request = Request(flags={**flags, "label_smoothing": 0.5}, file_values={}, output=tmp_path / "run")
    start_run(request, reporter=heard, stop=StopRequest())
    (record,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [now.loss for now in heard.all] == [record["train_loss"]]
    assert record["train_loss"] != record["train_loss_smoothed"]


def test_a_run_that_becomes_slow_later_gets_no_advice() -> None:
    assert all(line.startswith("epoch 1/10") for line in told(1.0, 4.0))


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (120, ["12/391", "loss 1.812", "lr 2.00e-03", "1,238 images/s", "1:40 left"]),
        (72, ["12/391", "loss 1.812", "1,238 images/s", "1:40 left"]),
        (60, ["12/391", "loss 1.812", "1:40 left"]),
        (34, ["12/391"]),
    ],
)
def test_a_narrow_terminal_leaves_out_whole_parts_of_the_line(
    columns: int, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    reporter = LiveReporter()
    try:
        reporter.advised = True
        now = Progress(epoch=0, epochs=2, step=12, steps=391, loss=1.812, lr=2e-3, images_per_s=1238, step_s=100 / 770)
        reporter.progress(now)
        assert reporter.bar.tasks[0].fields["more"].split("  ") == parts
    finally:
        reporter.close()


def test_a_start_resolves_its_settings_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, recipes_asked = recipes.resolve, []

    def counting(**options: Any) -> Any:
        recipes_asked.append(options["recipe_name"])
        return resolve(**options)

    monkeypatch.setattr(recipes, "resolve", counting)
    arguments = [
        "--model",
        "cct_2_3x2",
        "--image-size",
        "8",
        "--batch-size",
        "719",
        "--epochs",
        "1",
        "-o",
        str(tmp_path / "run"),
    ]
    assert app.run(["train", "digits", "--quiet", *arguments]) == 0
    assert recipes_asked == ["demo"]
