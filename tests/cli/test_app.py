"""The one place where errors are printed: few lines, printable, with the right exit code; bugs keep their traceback."""

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
import typer
from rich.text import Text

from cctkit.catalog.recipes import RECIPES
from cctkit.cli import app
from cctkit.cli.tables import print_json
from cctkit.errors import UserError


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    streams = capsys.readouterr()
    assert streams.out == ""
    assert all(line.isprintable() for line in streams.err.splitlines())
    return streams.err[max(0, streams.err.find("error:")) :].splitlines()  # the notices before it aside


@pytest.mark.parametrize(
    "arguments",
    [
        ["curves", "x" * 5000],
        ["eval", "x" * 5000],
        ["train", "--config", "x" * 5000],
        ["train", "--dataset", "x" * 5000],
        ["train", "--dataset", "digits", "--output", "x" * 5000],
        ["train", "--dataset", "digits", "--init", "x" * 5000],
        ["train", "--resume", "x" * 5000],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_a_name_too_long_is_an_error_of_the_users(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(arguments) == 2
    lines = printed(capsys)
    assert len(lines) <= 3
    assert lines[0] == "error: File name too long" or "no such" in lines[0] or "cannot" in lines[0]


def test_command_line_text_is_escaped_in_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--\x1b[31m", "\u202e", os.fsdecode(b"\xff")):
        assert app.run(["train", word]) == 2
        assert len(printed(capsys)) <= 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["summarize", "--model"],
        ["summarize", "--fit"],
        ["compare", "--sort"],
        ["plot-lr", "--recipe", "fast", "--compare"],
        ["bench", "--device"],
    ],
    ids=" ".join,
)
def test_an_invalid_choice_is_escaped_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([*arguments, "a\\b\x1b"]) == 2
    assert r"'a\b\x1b'" in printed(capsys)[0]


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "images"), 2, "error: Permission denied"),
        (MemoryError(), 4, "error: memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 4, "error: memory ran out"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_operating_system_errors_have_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, words: str
) -> None:
    def fail(**_: object) -> None:
        raise raised

    monkeypatch.setattr(app, "app", fail)
    assert app.run([]) == code
    assert printed(capsys)[0] == words


@pytest.mark.parametrize("path", ["weights", None])  # an error of a read has no path
@pytest.mark.parametrize("told", [True, False])
def test_a_disk_that_fails_to_read_is_exit_4_whatever_its_reader_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str | None, told: bool
) -> None:
    def fail(**_: object) -> None:
        cause = OSError(errno.EIO, "Input/output error", *([path] if path else []))
        if told:
            raise UserError("the weights file is damaged", path, "restore it") from cause
        raise cause

    monkeypatch.setattr(app, "app", fail)
    assert app.run([]) == 4
    expected = ["error: the disk failed to read: Input/output error", "  in: weights" if path else ""]
    assert printed(capsys) == [*filter(None, expected), "  try: repeat it; if it fails again, check the disk"]


@pytest.mark.parametrize("bug", [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("a bug"), KeyError("a bug")])
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    def fail(**_: object) -> None:
        raise bug

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(type(bug)):
        app.run([])


def test_a_config_file_with_values_of_any_type_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junk = ["3", "[1]", "1979-05-27", "inf", "0x" + "f" * 5000, '"\\u0000"', "{a = 1}", "true", "-1", "[[]]"]
    for key in ("recipe", "dataset", "image_size", "lr", "epochs", "model", "init", "flip", "auto_augment"):
        for value in junk:
            path = tmp_path / "c.toml"
            path.write_text(f"dataset = 3\n{key} = {value}\n" if key != "dataset" else f"{key} = {value}\n")
            assert app.run(["train", "--config", str(path)]) == 2, (key, value)
            assert len(printed(capsys)) <= 3


@pytest.mark.parametrize(
    ("setting", "default"),
    [
        ("epochs", "(default: the recipe's, else 200)"),
        ("lr", "(default: the recipe's, else 0.0005)"),
        ("flip", "(default: the recipe's, else on)"),
        ("auto_augment", "(default: the recipe's, else cifar10)"),
        ("warmup_epochs", "(default: the recipe's)"),
        ("seed", "(default: 0)"),
        ("model", "(default: cct_2_3x2)"),
    ],
)
def test_the_help_names_the_recipe_as_the_default_of_its_settings(setting: str, default: str) -> None:
    parameters = typer.main.get_command(app.app).commands["train"].params  # type: ignore[attr-defined]
    (text,) = [parameter.help for parameter in parameters if parameter.name == setting]
    assert text.endswith(f" {default}")
    assert text.count("default") == 1


def test_the_help_marks_every_setting_that_a_recipe_sets() -> None:
    parameters = typer.main.get_command(app.app).commands["train"].params  # type: ignore[attr-defined]
    said = {parameter.name for parameter in parameters if "the recipe's" in (parameter.help or "")}
    assert said == {key for recipe in RECIPES.values() for rows in (*recipe.sources.values(), recipe.one_conv) for key in rows}


@pytest.mark.parametrize("arguments", [["--no-color", "models"], ["models", "--no-color"], ["models", "--no-color", "--json"]])
def test_no_color_works_before_and_after_the_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert app.run(arguments) == 0
    assert os.environ["NO_COLOR"] == "1"
    assert "cct_2_3x2" in capsys.readouterr().out


def test_no_color_after_two_dashes_is_an_argument(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert app.run(["eval", "--", "--no-color"]) == 2
    assert "--no-color" in printed(capsys)[1]
    assert os.environ["NO_COLOR"] == ""


def test_no_color_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    assert "--no-color" in capsys.readouterr().out


def test_help_texts_are_not_parsed_as_markup() -> None:
    group = typer.main.get_command(app.app)
    texts = [command.help for command in group.commands.values()]  # type: ignore[attr-defined]
    texts += [parameter.help for command in group.commands.values() for parameter in command.params]  # type: ignore[attr-defined]
    shown = {text: Text.from_markup(text).plain for text in texts if text}
    assert len(shown) > 100
    assert [text for text, plain in shown.items() if plain != text] == []


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é"), ("ascii", r"\u00e9")])
def test_json_is_printed_for_any_names_and_any_stream_encoding(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file name that is no UTF-8 ended a finished run in a traceback."""
    names = ["caf\udce9", "\x1b[31m\u202e", "é"]
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    print_json({"classes": names}, indent=None)
    stream.flush()
    text = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert text == '{"classes": ["caf\\udce9", "\\u001b[31m\\u202e", "' + shown + '"]}\n'
    assert json.loads(text)["classes"] == names


def test_on_a_terminal_an_error_breaks_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise UserError("a name that is wrong " * 6, "/a/path/of/many/parts" * 5, "another name")

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert app.run([]) == 2
    lines = printed(capsys)
    assert [line for line in lines if len(line) > 60] == ["    " + "/a/path/of/many/parts" * 5]
    assert " ".join(" ".join(lines).split()) == (
        "error: " + "a name that is wrong " * 6 + "in: " + "/a/path/of/many/parts" * 5 + " try: another name"
    )
