"""`cctkit train` and `cctkit eval` as a user meets them: in processes of their own, on real images."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.jobs import until
from cctkit.cli import app
from cctkit.models.weights import read_info
from tests.conftest import write_images
from tests.processes import Forked, forked

# A second of training: the smallest model, few digits' epochs.
TINY = ["--model", "cct_2_3x2", "--dataset", "digits", "--image-size", "8", "--batch-size", "128", "--precision", "float32"]
TINY += ["--threads", "1"]


def begun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m cctkit`, which imports all that it needs for itself."""
    command = [sys.executable, "-m", "cctkit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def untimed(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    clock = {"images_per_s", "input_percent", "train_seconds"}
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that has a state of its own: EMA, Muon, mixing, dropout, a validation split."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    begun("train", *TINY, *STATEFUL, "-o", run)
    return run


STATEFUL = ["--epochs", "6", "--ema", "0.9", "--mixup", "0.5", "--attention-dropout", "0.1", "--drop-path", "0.1"]
STATEFUL += ["--val-fraction", "0.1", "--dropout", "0.1", "--clip-grad", "1"]


def test_a_run_leaves_all_that_was_promised(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    assert names >= {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "weights.safetensors",
        "result.json",
        "curves.png",
        "checkpoints",
        "predictions.safetensors",
    }
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 7))
    assert lines[0].keys() >= {
        "epoch",
        "step",
        "lr",
        "train_loss",
        "train_loss_smoothed",
        "train_top1_percent",
        "test_loss",
        "test_loss_smoothed",
        "test_top1_percent",
        "val_top1_percent",
        "images_per_s",
    }
    stored = json.loads((unbroken / "config.json").read_text())
    assert stored["values"]["epochs"] == 6
    assert stored["origins"]["epochs"] == "flag"
    assert stored["origins"]["optimizer"].startswith("recipe demo")
    assert stored["origins"]["compile"] == "default"
    result = json.loads((unbroken / "result.json").read_text())
    best = max(lines, key=lambda line: (line["val_top1_percent"], -line["val_loss"]))
    assert result["epoch"] == best["epoch"]  # chosen by validation
    assert result["top1_percent"] == best["test_top1_percent"]


def test_the_weights_alone_repeat_the_figures_to_the_last_digit(unbroken: Path, tmp_path: Path) -> None:
    trained = json.loads((unbroken / "result.json").read_text())
    for arguments in ([unbroken], [unbroken / "weights.safetensors", "--precision", "float32"]):
        evaluated = json.loads(forked("eval", *arguments, "--json", cwd=tmp_path, check=True).stdout)
        assert (evaluated.pop("missing_classes"), evaluated.keys() >= {"top1_percent", "loss", "ece"}) == ([], True)
        for key in evaluated.keys() - {"images_per_s", "finished"}:
            assert evaluated[key] == trained[key], key
        assert evaluated["finished"] is (True if len(arguments) == 1 else None)  # which a file alone does not tell
        assert evaluated["schema_version"] == 1
    info = read_info(unbroken / "weights.safetensors")
    assert info.class_names == tuple("0123456789")


@pytest.mark.parametrize(("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_resumed_run_is_the_unbroken_one(
    unbroken: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    process = Forked("train", *TINY, *STATEFUL, "--workers", "1", "-o", run)
    until(lambda: (run / "metrics.jsonl").exists() or process.returncode is not None)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    forked("train", "--resume", run, "--workers", "2", check=True)
    assert sha256(run / "weights.safetensors") == sha256(unbroken / "weights.safetensors")


def test_resuming_a_finished_run_prints_its_result(unbroken: Path) -> None:
    before = sha256(unbroken / "weights.safetensors")
    again = ["--image-size", "8x8", "--epochs", "6", "--threads", "1"]  # as they are, but for one that may change
    done = forked("train", "--resume", unbroken, *again, "--json", check=True)
    assert json.loads(done.stdout)["epochs"] == 6
    assert sha256(unbroken / "weights.safetensors") == before


def test_a_resumed_run_keeps_its_settings(unbroken: Path) -> None:
    done = forked("train", "--resume", unbroken, "--lr", "0.5")
    assert done.returncode == 2
    assert "lr is" in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    done = forked("train", "--resume", unbroken, "--recipe", "report")
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cooldown-epochs", "5.5"], "cooldown_epochs is 0.0, got 5.5"),
        (["--epochs", "1", "--seed", "3"], "epochs is 6, got 1; seed is 0, got 3"),
        (["--image-size", "8x16"], "image_size is [8, 8], got [8, 16]"),
        (["--image-size", "8", "--stream", "--skip-bad"], "skip_bad is False, got True"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_that_would_change_is_named_even_where_it_contradicts_another(
    unbroken: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert app.run(["train", "--resume", str(unbroken), *flags]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("error: a resumed run keeps its settings: ")
    assert words in first
    assert len(others) == 2


def test_off_a_terminal_progress_is_plain_lines_and_stdout_is_the_result(tmp_path: Path) -> None:
    done = forked("train", *TINY, "--epochs", "2", "-o", tmp_path / "run", "--json", check=True)
    assert json.loads(done.stdout)["model"] == "cct_2_3x2"
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert "recipe demo" in done.stderr.splitlines()[0]
    assert sum(line.startswith("epoch ") for line in done.stderr.splitlines()) == 2


def test_a_folder_of_images_that_are_not_square_trains_and_is_evaluated(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", {"cat": 12, "dog [x]": 12}, size=(32, 48))
    arguments = ["--dataset", tmp_path / "pets", "--image-size", "48x32", "--epochs", "2", "--batch-size", "8"]
    arguments += ["--recipe", "report"]
    forked("train", *arguments, "-o", tmp_path / "run", check=True)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["dataset"], result["num_images"], result["score"]) == ("pets", 4, None)
    assert json.loads(forked("eval", tmp_path / "run", "--json", check=True).stdout)["loss"] == result["loss"]
    weights = tmp_path / "run" / "weights.safetensors"
    bare = forked("eval", weights)
    assert bare.returncode == 2
    assert "--dataset" in bare.stderr
    saved = tmp_path / "predictions.safetensors"
    forked("eval", weights, "--dataset", tmp_path / "pets", "--save-predictions", saved, check=True)
    assert saved.exists()
    (tmp_path / "pets" / "dog [x]").rename(tmp_path / "pets" / "wolf")
    other = forked("eval", weights, "--dataset", tmp_path / "pets")
    assert other.returncode == 2
    assert "wolf" in other.stderr


def test_a_run_can_start_from_the_weights_of_another(unbroken: Path, tmp_path: Path) -> None:
    weights = unbroken / "weights.safetensors"
    settings = ["--epochs", "1", "--lr", "1e-9", "--muon-lr", "1e-9", "--init", weights, "-o", tmp_path / "run"]
    done = forked("train", *TINY, *settings, check=True)
    assert "tensors loaded" in done.stderr
    before, after = (json.loads((run / "result.json").read_text()) for run in (unbroken, tmp_path / "run"))
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-4)
    assert json.loads((tmp_path / "run" / "env.json").read_text())["init"]["layout"]


def test_a_damaged_file_of_a_run_is_three_lines_and_exit_2(unbroken: Path, tmp_path: Path) -> None:
    import shutil

    for name, content in (("config.json", "{"), ("config.json", "[]"), ("env.json", "{}")):
        run = tmp_path / f"{name}-{len(content)}{content[0]}"
        shutil.copytree(unbroken, run)
        (run / name).write_text(content)
        for command in (["train", "--resume", run], ["eval", run]):
            done = forked(*command)
            assert done.returncode == 2, done.stderr
            assert name in done.stderr
            assert len(done.stderr.splitlines()) <= 3


def test_divergence_is_exit_3_and_the_last_checkpoint_is_finite(tmp_path: Path) -> None:
    from cctkit.training.checkpoint import load_checkpoint

    settings = ["--epochs", "5", "--optimizer", "adamw", "--lr", "1e30", "--warmup-fraction", "0"]
    done = forked("train", *TINY, *settings, "-o", tmp_path / "run")
    assert done.returncode == 3
    assert "diverged" in done.stderr
    told = ("epoch", "cct_", "recipe", "  expected", "data: ")
    assert len([line for line in done.stderr.splitlines() if not line.startswith(told)]) <= 3
    found = load_checkpoint(tmp_path / "run" / "checkpoints", warn=lambda _: None)
    assert found is not None
    assert all(tensor.isfinite().all() for tensor in found.tensors["model"].values())


def test_early_stopping_ends_before_the_last_epoch(tmp_path: Path) -> None:
    settings = ["--epochs", "30", "--val-fraction", "0.1", "--early-stopping", "1", "--lr", "1e-9", "--muon-lr", "1e-9"]
    result = json.loads(forked("train", *TINY, *settings, "-o", tmp_path / "run", "--json", check=True).stdout)
    assert result["epochs"] < 30


def test_help_has_panels_and_a_dozen_main_options_at_most() -> None:
    done = forked("train", "--help", check=True)
    main = done.stdout.split("Main options:\n")[1].split("\n\n")[0]
    assert 8 <= sum(line.startswith("  -") for line in main.splitlines()) <= 12
    assert "Augmentation:" in done.stdout
    assert "(default:" in done.stdout
    assert forked("--version", check=True).stdout.startswith("cctkit ")
