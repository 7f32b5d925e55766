"""The help: every word whole at any width, a section a panel; without arguments; and what completion offers, without torch."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable

import pytest
import typer

from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.recipes import RECIPES
from cctkit.cli import app

COMMANDS = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert app.run(list(arguments)) == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    return streams.out


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_of_the_help_breaks_inside_a_word(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(capsys, command, "--help")
    assert all(len(line) <= columns for line in text.splitlines())
    words = text.split()
    for parameter in COMMANDS[command].params:
        assert {each for each in (*parameter.opts, *parameter.secondary_opts) if each[0] == "-"} <= {
            w.strip(",") for w in words
        }
        wanted = (parameter.help or "").split()
        assert any(words[i : i + len(wanted)] == wanted for i in range(len(words))), parameter.name


def test_the_options_of_a_panel_stand_under_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "train", "--help").splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles[:2] == ["Arguments:", "Main options:"]
    assert {"Model:", "Data:", "Augmentation:", "Optimizer and schedule:", "Run:", "Machine:"} <= set(titles)
    model = lines[lines.index("Model:") : lines.index("Data:")]
    assert any(line.startswith("  --embed-dim ") for line in model)


@pytest.mark.parametrize(("option", "names"), [("--recipe", RECIPES), ("--dataset", DATASETS)])
def test_the_help_of_train_names_every_recipe_and_data_set(option: str, names: Iterable[str]) -> None:
    (text,) = (parameter.help for parameter in COMMANDS["train"].params if option in parameter.opts)
    assert set(names) <= set(re.findall(r"[\w-]+", text))


def test_without_arguments_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert text == printed(capsys, "--help")
    assert all(f"\n  {command} " in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("cctkit tr", ["train"]),
        ("cctkit train --model cvt_", ["cvt_6_4", "cvt_7_4"]),
        ("cctkit summarize -m cct_14", ["cct_14_7x2_224", "cct_14_7x2_384"]),
        ("cctkit train -d cifar", ["cifar100", "cifar10"]),
        ("cctkit train digi", ["digits"]),
        ("cctkit eval -d digi", ["digits"]),
        ("cctkit pack fash", ["fashion_mnist"]),
        ("cctkit plot-lr -r shi", ["shi-300"]),
        ("cctkit train --recipe fa", ["fast"]),
        ("cctkit train --init vit_b", ["vit_b_16", "vit_b_32"]),
        ("cctkit train -d path/to/", []),
    ],
)
def test_completion_offers_names_of_the_catalog(
    words: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_CCTKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit) as left:
        app.run([])
    assert left.value.code == 0
    assert capsys.readouterr().out.split() == offered


def test_completion_starts_without_torch() -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); from cctkit.cli.app import main; main([])"
    )
    environment = {"_CCTKIT_COMPLETE": "complete_bash", "COMP_WORDS": "cctkit train -m cvt_6", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["cvt_6_4", "False"]
