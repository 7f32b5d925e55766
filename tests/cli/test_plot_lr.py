"""`cctkit plot-lr`: the trainer's own learning rates, the others' as they are, and the contract of --json."""

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from cctkit.cli.plot_lr import plot_lr
from cctkit.errors import UserError
from tests.conftest import write_images
from tests.golden_files import check_golden

app = typer.Typer()
app.command()(plot_lr)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def values(*arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("--json", *arguments).stdout)
    return document


def test_the_schedule_of_the_report_is_plotted_in_the_terminal() -> None:
    check_golden("plot_lr.txt", run("--epochs", "50").stdout)


def test_other_schedules_are_overlaid_and_explained() -> None:
    check_golden("plot_lr_compare.txt", run("--epochs", "50", "--compare", "shi,timm").stdout)


def test_the_report_warms_up_for_a_tenth_then_decays_as_a_cosine() -> None:
    document = values("--epochs", "50")
    lr = document["lr_by_step"]
    assert document["schema_version"] == 1
    assert (document["steps_per_epoch"], len(lr), document["epochs"]) == (391, 50 * 391, list(range(1, 51)))
    assert document["lr"] == lr[::391]
    assert lr[0] == pytest.approx(5e-4 / 1955)
    assert lr[1954] == lr[1955] == 5e-4  # the end of 5 epochs of 391 steps
    middle = 1955 + (19550 - 1955) // 3
    assert lr[middle] == pytest.approx(5e-4 * 0.5 * (1 + math.cos(math.pi / 3)))
    assert lr[-1] == pytest.approx(0, abs=1e-10)
    assert "lr_muon_by_step" not in document


def test_flags_and_files_change_the_schedule(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text("recipe = 'report'\nlr = 0.25\nepochs = 4\nwarmup_epochs = 1.0\n")
    common = ["--config", str(config), "--num-images", "100", "--batch-size", "30"]
    document = values(*common)
    assert document["steps_per_epoch"] == 4
    assert document["lr_by_step"][:4] == [0.0625, 0.125, 0.1875, 0.25]
    assert values(*common, "--warmup-epochs", "0", "--lr", "2")["lr_by_step"][0] == 2
    assert values(*common, "--min-lr", "0.1", "--epochs", "8")["lr_by_step"][-1] >= 0.1


def test_a_run_with_muon_shows_both_learning_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr("cctkit.plots.draw_schedule", lambda *_, **options: drawn.append(options))
    config = tmp_path / "a.toml"
    config.write_text("optimizer = 'muon'\nmuon_lr = 0.5\nlr = 0.25\nepochs = 2\n")
    document = values("--config", str(config))
    assert document["lr_muon_by_step"] == pytest.approx([2 * lr for lr in document["lr_by_step"]])
    assert "Muon" in run("--config", str(config), "--output", str(tmp_path / "a.png")).stdout
    assert drawn[0]["second_axis"] == ("Muon's learning rate", 2.0)


def test_the_values_are_the_optimizers_of_a_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cctkit import fit
    from cctkit.training.step import train_step

    seen: list[list[float]] = []

    def watched(state: Any, *arguments: Any, **options: Any) -> None:
        train_step(state, *arguments, **options)
        seen.append([optimizer.param_groups[0]["lr"] for optimizer in state.optimizers])

    monkeypatch.setattr("cctkit.training.loop.train_step", watched)
    for split in ("train", "test"):
        write_images(tmp_path / "data" / split, {"a": 10, "b": 10}, size=(8, 8))
    fit(
        output=tmp_path / "run",
        recipe="fast",
        dataset=str(tmp_path / "data"),
        image_size=8,
        epochs=3,
        batch_size=8,
        device="cpu",
        threads=1,
    )
    document = values("--recipe", "fast", "--epochs", "3", "--batch-size", "8", "--num-images", "20")
    assert len(seen) == 9
    assert [lr for lr, _ in seen] == document["lr_by_step"]
    assert [lr for _, lr in seen] == document["lr_muon_by_step"]


def test_the_published_script_warms_up_by_a_harmonic_series() -> None:
    document = values("--epochs", "10", "--warmup-epochs", "5", "--lr", "0.6", "--compare", "shi")
    rates = document["compare"]["shi"]["lr"]
    assert rates[:6] == pytest.approx([0.12, 0.15, 0.2, 0.3, 0.6, 0.6])
    assert rates[6] == pytest.approx(0.3 * (1 + math.cos(math.pi / 5)))


def test_timms_cosine_has_run_since_epoch_0_when_its_warm_up_ends() -> None:
    document = values("--epochs", "10", "--warmup-epochs", "5", "--lr", "0.6", "--min-lr", "0.1", "--compare", "timm")
    rates = document["compare"]["timm"]["lr"]
    assert rates[:2] == pytest.approx([1e-5, 1e-5 + (0.6 - 1e-5) / 5])
    assert rates[5] == pytest.approx(0.1 + 0.25)  # half way down, at t = 5 of 10
    assert max(rates) < 0.6


def test_the_timm_schedule_equals_timms_scheduler(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    scheduler = pytest.importorskip("timm.scheduler.cosine_lr")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.6)
    timm = scheduler.CosineLRScheduler(optimizer, t_initial=12, lr_min=0.1, warmup_t=4, warmup_lr_init=1e-5)
    config = tmp_path / "a.toml"
    config.write_text("cooldown_epochs = 2.0\nepochs = 14\nwarmup_epochs = 4.0\nlr = 0.6\nmin_lr = 0.1\n")
    rates = values("--config", str(config), "--compare", "timm")["compare"]["timm"]["lr"]
    assert rates == pytest.approx([timm._get_lr(epoch)[0] for epoch in range(14)])


def test_csv_has_one_line_per_step() -> None:
    arguments = [
        "--csv",
        "--recipe",
        "fast",
        "--epochs",
        "2",
        "--num-images",
        "300",
        "--batch-size",
        "100",
        "--compare",
        "timm,shi",
    ]
    lines = list(csv.DictReader(io.StringIO(run(*arguments).stdout)))
    document = values(*arguments[1:])
    assert [int(line["step"]) for line in lines] == list(range(6))
    assert [int(line["epoch"]) for line in lines] == [1, 1, 1, 2, 2, 2]
    assert [float(line["lr"]) for line in lines] == document["lr_by_step"]
    assert [float(line["lr_muon"]) for line in lines] == document["lr_muon_by_step"]
    assert [float(line["lr_timm"]) for line in lines[::3]] == document["compare"]["timm"]["lr"]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_saved_to_a_file_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"lr.{suffix}"
    result = run("--epochs", "1", "--num-images", "1", "--output", str(path), "--compare", "shi")
    assert path.stat().st_size > 1000
    assert "Learning rate, recipe report: 1 epoch of 1 step" in result.stdout
    assert result.stderr == f"wrote {path}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "reprot"], "unknown recipe"),
        (["--epochs", "0"], "epochs is 0"),
        (["--lr", "-1"], "lr is -1"),
        (["--min-lr", "1"], "min_lr 1.0 is above lr"),
        (["--compare", "keras"], "unknown schedule 'keras'"),
        (["--json", "--csv"], "cannot be combined"),
        (["--output", "lr.gif"], "plots are saved as"),
        (["--config", "nothing.toml"], "cannot read the config file"),
    ],
)
def test_what_cannot_be_done_is_an_error(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_neither_torch_nor_matplotlib_is_loaded_without_a_file() -> None:
    code = """
import sys
import typer
from cctkit.cli.plot_lr import plot_lr
app = typer.Typer()
app.command()(plot_lr)
app(["--epochs", "2"], standalone_mode=False)
print(sorted({"torch", "torchvision", "numpy", "matplotlib"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
