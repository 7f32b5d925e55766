"""Command-line options: those of the settings in `config/settings.py`, and those that several commands share."""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cctkit.catalog.recipes import RECIPES
from cctkit.cli import completion
from cctkit.config.fields import base_type, checked, flag_name
from cctkit.config.settings import settings
from cctkit.errors import UserError

_OFF = "no_"
_COMPLETIONS = {"model": completion.models, "dataset": completion.datasets, "init": completion.weights}
_OF_RECIPES = {key for recipe in RECIPES.values() for key in recipe.settings("x1")}


def flag(
    *spellings: str,
    text: str,
    default: object = None,
    at_least: float | None = None,
    at_most: float | None = None,
    metavar: str | None = None,
    panel: str | None = None,
    check: Callable[[Any], Any] | None = None,
    complete: Callable[[str], list[str]] | None = None,
) -> Any:
    """A command-line option.

    text: its help.
    default: what the help names as the default.
    check: called with the value; returns the value to use.
    """
    return typer.Option(
        *spellings,
        help=text if default is None else f"{text} (default: {default})",
        min=at_least,
        max=at_most,
        metavar=metavar,
        rich_help_panel=panel,
        callback=check,
        autocompletion=complete,
        show_default=False,
    )


def option(name: str, *, text: str | None = None, default: object = None) -> Any:
    """The flag of one setting for a command's own parameter, checked as the setting is.

    text: help that replaces the setting's.
    default: what the help names as the default.
    """
    item, hint = next(each for each in settings() if each[0].name == name)

    def check(value: Any) -> Any:
        return value if value is None or base_type(hint) is tuple else checked(name, value, hint, item.metadata)

    return flag(
        *_spellings(item, hint),
        text=text or item.metadata["help"],
        default=default,
        check=check,
        complete=_COMPLETIONS.get(name),
    )


def recipe_option(*, default: str | None = None, panel: str | None = None) -> Any:
    """`--recipe`."""
    text = f"{', '.join(RECIPES)}; cctkit recipes describes them"
    return flag("--recipe", "-r", text=text, default=default, panel=panel, complete=completion.recipes)


def config_option(*, panel: str | None = None) -> Any:
    """`--config`."""
    return flag("--config", "-c", text="settings from a TOML file, or of a run: RUN/config.json", panel=panel)


def classes_option(default: object) -> Any:
    """`--num-classes`."""
    return flag("--num-classes", text="number of classes", default=default, at_least=1)


Json = Annotated[bool, flag("--json", text="print JSON")]
Quiet = Annotated[bool, flag("--quiet", "-q", text="no progress")]
TrainedModel = Annotated[
    str | None,
    flag(
        "--model",
        "-m",
        text="a run directory or a weights file; predict takes an ONNX file too",
        default="the newest run in runs/",
    ),
]
PicturePath = Annotated[Path | None, flag("--output", "-o", text="save the plot as a .png, .svg or .pdf file")]


def with_settings(command: Callable[..., None], *, panel: str | None = None) -> Callable[..., None]:
    """`command(flags, ...)` as a Typer command with one option per setting; `flags` holds the settings that were given.

    panel: only the settings in this panel of the help.
    """
    own = inspect.signature(command)
    parameters = [parameter for name, parameter in own.parameters.items() if name != "flags"]
    chosen = [(item, hint) for item, hint in settings() if panel in (None, item.metadata["panel"])]
    fields = [parameter for item, hint in chosen for parameter in _parameters(item, hint)]
    names = {parameter.name for parameter in fields}

    def run(**values: Any) -> None:
        flags = given({key: value for key, value in values.items() if key in names})
        command(flags=flags, **{key: value for key, value in values.items() if key not in names})

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = own.replace(parameters=[*parameters, *fields])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*parameters, *fields]}
    return run


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not None; `--no-NAME` sets NAME to its off value."""
    off = {_OFF + item.name: (item.name, item.metadata["off"]) for item, _ in settings() if item.metadata["off"] is not None}
    flags: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        name, setting = off.get(key, (key, value))
        if name in flags and flags[name] != setting:
            raise UserError(f"{flag_name(name)} and {flag_name(_OFF + name)} contradict each other", "command line")
        flags[name] = setting
    return flags


def with_lone_flags(words: Sequence[str]) -> list[str]:
    """The words of a command line, where a flag that may stand without its number (`--class-weights`) gets it."""
    lone = {flag_name(item.name): item.metadata["alone"] for item, _ in settings() if item.metadata["alone"] is not None}
    end = words.index("--") if "--" in words else len(words)
    filled = [
        f"{word}={lone[word]}" if word in lone and not _is_number(after) else word
        for word, after in itertools.pairwise([*words[:end], ""])
    ]
    return [*filled, *words[end:]]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _parameters(item: dataclasses.Field[Any], hint: Any) -> list[inspect.Parameter]:
    """The option of a setting, and its `--no-` form if the setting has an off value."""
    metadata, name = item.metadata, flag_name(item.name)
    kind = base_type(hint)
    shown = ("on" if item.default else "off") if kind is bool else item.default
    parts = ["the recipe's"] if item.name in _OF_RECIPES else []
    parts += [] if shown is None else [f"else {shown}" if parts else str(shown)]
    annotation = str if kind is tuple else kind  # sizes are given as text; the configuration checks choices
    on = flag(
        *_spellings(item, hint),
        text=metadata["help"],
        default=", ".join(parts) or None,
        metavar=None if metadata["alone"] is None else "[POWER]",
        panel=metadata["panel"],
        complete=_COMPLETIONS.get(item.name),
    )
    parameters = [_keyword(item.name, Annotated[annotation | None, on])]
    if metadata["off"] is not None:
        off = flag(f"--no-{name.removeprefix('--')}", text=f"same as {name} {metadata['off']}", panel=metadata["panel"])
        parameters.append(_keyword(_OFF + item.name, Annotated[bool | None, off]))
    return parameters


def _spellings(item: dataclasses.Field[Any], hint: Any) -> list[str]:
    """`--NAME` and the field's other flags, with `/--no-NAME` for a bool."""
    spellings = [flag_name(item.name), *item.metadata["flags"]]
    if base_type(hint) is not bool:
        return spellings
    return [f"{spelling}/--no-{spelling.removeprefix('--')}" for spelling in spellings]


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
