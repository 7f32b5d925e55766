"""`--time`: the epochs that fit, the same on all ranks and after a resume, and nothing else about the run changes."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.jobs import lines, sha256
from cctkit.api import SilentReporter, fit
from cctkit.catalog.recipes import resolve
from cctkit.cli import app
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError, UserError
from cctkit.training import timing
from cctkit.training.budget import Budget, Costs, fitting_epochs, with_epochs
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from tests.conftest import write_images
from tests.training.jobs import ForkedJob
from tests.training.timed import Clock, timed

BUDGET = Budget(text="100s", seconds=100, began=0, clock=lambda: 0)
COSTS = Costs(start_s=4, epoch_s=8, end_s=6)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """44 images to train with, which are six batches; 4 for validation, and 8 test images."""
    folder = tmp_path_factory.mktemp("images")
    for role, number in (("train", 24), ("test", 4)):
        write_images(folder / role, {"a": number, "b": number}, size=(8, 8))
    return {
        "model": "cct_2_3x2", "dataset": str(folder), "image_size": 8, "batch_size": 8, "optimizer": "adamw",
        "dropout": 0.1, "drop_path": 0.3, "mixup": 0.5, "ema": 0.9, "val_fraction": 0.1, "precision": "float32",
    }  # fmt: skip


def stored(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("spent_s", "epochs"),
    [(0, 10), (6.9, 10), (7.1, 9), (70.9, 2), (79, 1), (82, 1)],  # 97 - spent - 10, over 8; one epoch may take all of 100
)
def test_the_epochs_are_those_that_end_within_97_percent_of_the_budget(spent_s: float, epochs: int) -> None:
    assert fitting_epochs(BUDGET, spent_s, COSTS) == epochs


def test_one_more_epoch_may_take_the_reserve_if_the_run_would_be_shorter_than_80_percent() -> None:
    assert fitting_epochs(BUDGET, 0, Costs(start_s=0, epoch_s=33, end_s=0)) == 3  # 66 or 99 of 100
    assert fitting_epochs(BUDGET, 0, Costs(start_s=0, epoch_s=34, end_s=0)) == 2  # 68 or 102
    assert fitting_epochs(BUDGET, 0, Costs(start_s=0, epoch_s=19.9, end_s=0)) == 5  # 79.6 or 99.5
    assert fitting_epochs(BUDGET, 0, Costs(start_s=4, epoch_s=19.1, end_s=0)) == 4  # 80.4 or 99.5


def test_a_budget_that_is_too_short_for_one_epoch_is_refused_with_one_that_is_not() -> None:
    with pytest.raises(UserError) as raised:
        fitting_epochs(BUDGET, 82.1, COSTS)
    assert raised.value.what == "100s is too short: a run of one epoch takes about 100s on this machine"
    assert raised.value.remedy == "--time 115s, a smaller --model or --image-size, or fewer images"
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("clock", "time"),
    [
        (Clock(step_s=0.3, image_s=0.5, save_s=4.0), "2m"),
        pytest.param(Clock(step_s=1.0), "100s", marks=pytest.mark.slow),
        pytest.param(Clock(step_s=0.01, image_s=0.02, save_s=2.0), "30s", marks=pytest.mark.slow),
        pytest.param(Clock(step_s=20.0, image_s=1.0), "30m", marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_between_80_and_105_percent_of_its_budget(
    clock: Clock, time: str, settings: Mapping[str, Any], tmp_path: Path
) -> None:
    with timed(clock):
        fit(**settings, time=time, test_every_epoch=True, output=tmp_path / "run")
    epochs = stored(tmp_path / "run")["values"]["epochs"]
    assert epochs >= 5
    assert 0.80 <= clock.now / Budget.begin(time).seconds <= 1.05
    assert len(lines(tmp_path / "run")) == epochs


def test_a_run_with_a_budget_is_bit_for_bit_the_one_with_its_number_of_epochs(
    settings: Mapping[str, Any], tmp_path: Path
) -> None:
    with timed(Clock(step_s=1.0)):
        fit(**settings, time="26s", output=tmp_path / "timed")
    epochs = stored(tmp_path / "timed")["values"]["epochs"]
    fit(**settings, epochs=epochs, output=tmp_path / "counted")
    assert sha256(tmp_path / "timed" / "weights.safetensors") == sha256(tmp_path / "counted" / "weights.safetensors")
    assert lines(tmp_path / "timed") == lines(tmp_path / "counted")
    assert stored(tmp_path / "timed")["values"] == stored(tmp_path / "counted")["values"]
    assert stored(tmp_path / "timed")["origins"]["epochs"] == "--time 26s, with about 6.0s per epoch"
    assert {item.name for item in (tmp_path / "timed").iterdir()} == {item.name for item in (tmp_path / "counted").iterdir()}


class Stopping(SilentReporter):
    """Asks the run to stop after its first epoch."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        self.stop.signal_number = signal.SIGINT


def test_a_resumed_run_keeps_the_epochs_however_long_it_lay(settings: Mapping[str, Any], tmp_path: Path) -> None:
    clock, stop = Clock(step_s=1.0), StopRequest()
    with timed(clock):
        request = Request(flags=settings, file_values={}, time="24s", output=tmp_path / "stopped")
        with pytest.raises(StoppedError):
            start_run(request, reporter=Stopping(stop), stop=stop)
        before = stored(tmp_path / "stopped")
        clock.now += 1e6
        clock.step_s = 50
        resume_run(tmp_path / "stopped", {}, reporter=SilentReporter(), stop=StopRequest())
    assert stored(tmp_path / "stopped") == before
    assert len(lines(tmp_path / "stopped")) == before["values"]["epochs"] >= 2
    with timed(Clock(step_s=1.0)):
        fit(**settings, time="24s", output=tmp_path / "unbroken")
    assert sha256(tmp_path / "stopped" / "weights.safetensors") == sha256(tmp_path / "unbroken" / "weights.safetensors")


def test_what_does_not_fit_leaves_nothing_behind(
    settings: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train",
        settings["dataset"],
        "--image-size",
        "8",
        "-b",
        "8",
        "-q",
        "--time",
        "30s",
        "-o",
        str(tmp_path / "run"),
    ]
    with timed(Clock(step_s=10)):
        assert app.run(arguments) == 2
    error = capsys.readouterr().err
    assert "error: 30s is too short: a run of one epoch takes about " in error
    assert "  in: --time\n  try: --time " in error
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_stopped_while_it_is_measured_leaves_nothing_behind(settings: Mapping[str, Any], tmp_path: Path) -> None:
    class Impatient(SilentReporter):
        def notice(self, text: str) -> None:
            if "measuring" in text:
                stop.signal_number = signal.SIGTERM

    stop = StopRequest()
    request = Request(flags=settings, file_values={}, time="30s", output=tmp_path / "run")
    with timed(Clock(step_s=0.1)), pytest.raises(StoppedError):
        start_run(request, reporter=Impatient(), stop=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_while_measuring_leaves_is_no_obstacle(
    settings: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    run = tmp_path / "run"
    with monkeypatch.context() as patch, timed(Clock(step_s=1.0)):
        patch.setattr(timing.shutil, "rmtree", lambda *_, **__: None)
        patch.setattr("cctkit.runs.rundir.RunDir.discard", lambda self: self.close())
        patch.setattr(timing, "fitting_epochs", killed)
        with pytest.raises(Killed):
            fit(**settings, time="30s", output=run)
    assert (run / ".timing" / "checkpoints").is_dir()
    with timed(Clock(step_s=1.0)):
        fit(**settings, time="20s", output=run)
    assert (run / "result.json").is_file()
    assert not (run / ".timing").exists()


def test_all_ranks_agree_on_the_epochs_of_the_slowest(settings: Mapping[str, Any], tmp_path: Path) -> None:
    arguments = ["--image-size", "8", "--batch-size", "8", "--threads", "1", "--precision", "float32"]
    job = ForkedJob(
        2, "train", settings["dataset"], *arguments, "--time", "30s", "-o", tmp_path / "run", module="tests.training.timed"
    )
    _, err = job.communicate()
    assert job.returncode == 0, err
    assert err.count("epochs of about 9.0s") == 1  # six steps, each 1.5 s on the second rank
    assert len(lines(tmp_path / "run")) == stored(tmp_path / "run")["values"]["epochs"] == 2


@pytest.mark.parametrize(("steps", "expected"), [(1000, (0.25, 3.0)), (8, (0.625, 0.0))])
def test_with_workers_the_start_of_an_epoch_is_counted_once(
    steps: int, expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(step_s=0.25)

    def train(_self: Any, _state: Any, _plan: Any, batches: int) -> None:
        clock.now += 3.0 + batches * clock.step_s  # workers start for three seconds

    monkeypatch.setattr(timing._Trial, "_train", train)
    monkeypatch.setattr(timing, "_agreed", lambda _job, seconds: seconds)
    job: Any = SimpleNamespace(steps=steps, workers=2)
    trial = timing._Trial(job=job, budget=Budget(text="2h", seconds=7200, began=0, clock=clock))
    found: Any = trial._training(None, None)  # type: ignore[arg-type]
    assert found == pytest.approx(expected)  # an epoch that is measured whole contains its start


def test_a_recipes_warm_up_and_cool_down_in_epochs_shrink_with_the_epochs() -> None:
    resolved = resolve(recipe_name="shi-300", file_values={}, flags={"epochs": 10**6})
    found = with_epochs(resolved, 31, budget=BUDGET, recipe_name="shi-300", epoch_s=3.0)
    assert (found.config.epochs, found.config.warmup_epochs, found.config.cooldown_epochs) == (31, 1.0, 1.0)  # 10 of 310
    assert found.origins["warmup_epochs"].endswith(", 10 of 310 epochs")
    assert found.origins["epochs"] == "--time 100s, with about 3.0s per epoch"
    longer = with_epochs(resolved, 620, budget=BUDGET, recipe_name="shi-300", epoch_s=3.0)
    assert (longer.config.warmup_epochs, longer.config.cooldown_epochs) == (10.0, 10.0)


def test_a_warm_up_that_the_user_gives_is_kept_or_refused() -> None:
    resolved = resolve(recipe_name="fast", file_values={}, flags={"epochs": 10**6, "warmup_epochs": 5.0})
    found = with_epochs(resolved, 6, budget=BUDGET, recipe_name="fast", epoch_s=1.0)
    assert found.config.warmup_epochs == 5.0
    with pytest.raises(UserError) as raised:
        with_epochs(resolved, 4, budget=BUDGET, recipe_name="fast", epoch_s=1.0)
    assert raised.value.remedy == "shorten them, or give more --time"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "30m", "--epochs", "3"], "error: --time and --epochs cannot be combined"),
        (["--time", "soon"], "error: --time is 'soon', expected a duration"),
        (["--time", "30m", "--resume", "runs/x"], "error: --time cannot be given with --resume"),
    ],
)
def test_bad_uses_of_the_option_end_before_anything_is_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["train", "digits", *arguments]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_config_file_with_epochs_gives_way_to_the_budget() -> None:
    request = Request(flags={"dataset": "digits"}, file_values={"epochs": 7}, time="1h30m")
    assert request.budget is not None
    assert (request.budget.seconds, request.early.epochs > 7) == (5400, True)


def test_memory_that_runs_out_while_measuring_is_named(
    settings: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(timing, "train_step", too_large)
    with pytest.raises(UserError) as raised:
        fit(**settings, time="30s", output=tmp_path / "run")
    assert raised.value.exit_code == 4
    assert raised.value.remedy == "use --accumulate 2, which keeps the batch size, or a smaller --batch-size"
    assert list(tmp_path.iterdir()) == []
