"""`cctkit curves`: plots of one and several runs, what they say in figures, and malformed metrics."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from cctkit.cli.curves import curves
from cctkit.cli.terminal import round_ticks
from cctkit.errors import UserError
from tests.golden_files import check_golden

app = typer.Typer()
app.command()(curves)


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80", **(env or {})})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def make_metrics(path: Path, epochs: int, *, faster: float = 1.0, **changes: Any) -> Path:
    """A run whose train loss falls from 4 and whose test loss falls from 3.5 by half as much."""
    path.mkdir(parents=True)
    records = [
        {
            "epoch": i,
            "train_loss": 9.0,
            "train_loss_smoothed": 4 - 2 * faster * i / epochs,
            "test_loss_smoothed": 3.5 - faster * i / epochs,
            "train_top1_percent": 80.0 * i / epochs,
            "test_top1_percent": 60.0 * i / epochs,
        }
        | changes
        for i in range(1, epochs + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_run_is_shown_with_its_crossing(tmp_path: Path) -> None:
    output = run(make_metrics(tmp_path / "run", 20)).stdout
    check_golden("curves.txt", output)
    # 4 - i / 10 < 3.5 - i / 20 from i = 11 on
    fact = "run: epoch 20, top-1 train 80.00%, test 60.00%; from epoch 11 on, the loss with label smoothing is lower on train"
    assert f"{fact} than on test\n" in output


def make_run(path: Path, choose_by: str, losses: tuple[float, ...] = (0.75, 0.5, 0.625)) -> Path:
    """A run of three epochs with validation images: top-1 rises, balanced accuracy falls."""
    records = [
        {
            "epoch": i,
            "train_loss": 1.0,
            "train_loss_smoothed": 2.0,
            "train_top1_percent": 80.0,
            "val_loss": loss,
            "val_loss_smoothed": 3.0,
            "val_top1_percent": 50.0 + i,
            "val_balanced_accuracy_percent": 40.0 - i,
        }
        for i, loss in enumerate(losses, start=1)
    ]
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "config.json").write_text(json.dumps({"values": {"choose_by": choose_by}, "recipe": None}))
    return path


@pytest.mark.parametrize(
    ("choose_by", "titles", "fact"),
    [
        (
            "top1",
            ["Loss with label smoothing, nats per image", "Top-1 accuracy, %"],
            "epoch 3, top-1 train 80.00%, val 53.00%; from",
        ),
        (
            "balanced",
            ["Loss with label smoothing, nats per image", "Balanced accuracy, %"],
            "epoch 3, balanced accuracy val 37.00%; best balanced accuracy on val: 39.00% in epoch 1; from",
        ),
        (
            "loss",
            ["Loss, nats per image", "Top-1 accuracy, %"],
            "epoch 3, top-1 train 80.00%, val 53.00%; best loss on val: 0.5000 in epoch 2; the",
        ),
    ],
)
def test_the_figure_that_the_epoch_is_chosen_by_is_shown(choose_by: str, titles: list[str], fact: str, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", choose_by)
    output = run(path, "--output", tmp_path / "curves.svg").stdout
    assert [title for title in titles if f"{title}" in output] == titles
    assert fact in " ".join(output.split())
    picture = (tmp_path / "curves.svg").read_text()  # text is drawn as paths, with the words in a comment
    assert all(f"<!-- {title.removesuffix(', %').removesuffix(', nats per image')} -->" in picture for title in titles)


def test_runs_that_are_chosen_by_different_figures_are_compared_by_top1(tmp_path: Path) -> None:
    output = run(make_run(tmp_path / "a", "balanced"), make_run(tmp_path / "b", "loss")).stdout
    assert "Top-1 accuracy, %" in output
    assert "best" not in output


def test_without_a_name_the_newest_run_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="found no run"):
        run()
    for age, name in enumerate(("new", "old")):
        folder = make_metrics(tmp_path / "runs" / name, 20)
        for file in ("config.json", "weights.safetensors"):
            (folder / file).touch()
            os.utime(folder / file, (1000 - age, 1000 - age))
    result = run()
    assert "new: epoch 20" in result.stdout
    assert "using the newest run, runs/new" in result.stderr


def test_several_runs_are_shown_by_name(tmp_path: Path) -> None:
    runs = [make_metrics(tmp_path / "a", 20), make_metrics(tmp_path / "b", 10, faster=0.4)]
    output = run(*runs).stdout
    check_golden("curves_two.txt", output)
    fact = "b: epoch 10, top-1 train 80.00%, test 60.00%; the loss with label smoothing is not lower on train than on test\n"
    assert fact in output


def test_runs_with_the_same_name_are_named_by_path_and_duplicates_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # short paths, however long that of the temporary folder is
    paths = [make_metrics(Path(folder) / "run", 3) for folder in ("x", "y")]
    output = run(*paths, paths[0]).stdout
    assert [output.count(f"{path}: epoch") for path in paths] == [1, 1]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_saved_to_a_file_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curves.{suffix}"
    assert run(make_metrics(tmp_path / "run", 1), "--output", path).stderr == f"wrote {path}\n"
    assert path.stat().st_size > 1000


def test_an_unfinished_run_with_an_incomplete_last_line_is_plotted(tmp_path: Path) -> None:
    path = make_metrics(tmp_path / "run", 2)
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "train')
    assert "run: epoch 2," in run(path).stdout


def test_missing_splits_and_values_are_left_out(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("test_loss_smoothed", "test_top1_percent", "train_loss_smoothed"))
    output = run(make_metrics(tmp_path / "run", 2, **nothing)).stdout
    assert output.splitlines()[-1] == "run: epoch 2, top-1 train 80.00%"
    assert "Loss, nats per image" in output  # plain cross entropy


VAL = {"val_loss_smoothed": 9.0, "val_top1_percent": 55.0}
ONCE: dict[str, Any] = {**VAL, "test_loss_smoothed": None, "test_top1_percent": None}


def test_validation_is_plotted_if_there_is_no_test_accuracy(tmp_path: Path) -> None:
    alone = run(make_metrics(tmp_path / "val", 4, **ONCE), "-o", tmp_path / "a.svg").stdout
    fact = "val: epoch 4, top-1 train 80.00%, val 55.00%; from epoch 1 on, the loss with label smoothing is lower on train"
    assert alone.splitlines()[-1] == f"{fact} than on val"
    legends = [line.split() for line in alone.splitlines() if "train" in line][:2]
    assert [[word for word in words if word.isalpha()] for words in legends] == [["train", "val"]] * 2
    both = run(tmp_path / "val", make_metrics(tmp_path / "test", 4, **VAL), "-o", tmp_path / "b.svg").stdout
    for name in ("val train", "val val", "test train", "test test"):
        assert name in both
    assert "test val" not in both


def test_colour_is_used_only_if_wanted(tmp_path: Path) -> None:
    path = make_metrics(tmp_path / "run", 5)
    assert "\x1b" not in run(path).stdout
    assert "\x1b[38;5;" in run(path, env={"FORCE_COLOR": "1", "NO_COLOR": "", "TERM": "xterm-256color"}).stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no epoch is finished yet"),
        (b"[1]\n", "line 1 is not an epoch of a run: it is not a JSON object"),
        (b"{}\n", "its epoch is None"),
        (b'{"epoch": 0}\n', "its epoch is 0, expected 1"),
        (b'{"epoch": 1}\n{"epoch": 1}\n', "line 2 is not an epoch of a run: its epoch is 1, expected 2"),
        (b'{"epoch": true}\n', "its epoch is True"),
        (b'{"epoch": 1, "train_loss": "low"}\n', "train_loss is 'low', expected a number"),
        (b'{"epoch": 1, "test_top1_percent": NaN}\n', "test_top1_percent is nan"),
        (b'{"epoch": 1, "train_loss": 1' + b"0" * 400 + b"}\n", "expected a number"),
        (b"\xff\xff\n{}\n", "line 1 is not valid JSON"),
        (b"[" * 100_000 + b"\n{}\n", "cannot read the metrics|line 1"),
    ],
)
def test_malformed_metrics_are_an_error_that_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path)
    assert caught.value.where == str(tmp_path / "metrics.jsonl")


def test_a_missing_run_or_a_wrong_file_suffix_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metrics"):
        run(tmp_path)
    with pytest.raises(UserError, match="plots are saved as"):
        run(make_metrics(tmp_path / "run", 2), "--output", tmp_path / "a.gif")


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 5e-4, False, [0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4]),
        (1.31, 2.3, False, [1.4, 1.6, 1.8, 2.0, 2.2]),
        (1, 3, True, [1, 2, 3]),
        (0, 200, True, [0, 50, 100, 150, 200]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, whole: bool, expected: list[float]) -> None:
    assert round_ticks(low, high, whole=whole) == expected
