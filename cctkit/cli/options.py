"""Configuration fields as command-line flags: help, spellings, panels, ranges and defaults come from `config/settings.py`."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from cctkit.catalog.recipes import RECIPES
from cctkit.cli import completion
from cctkit.config.fields import base_type, checked, flag_name
from cctkit.config.settings import settings
from cctkit.errors import UserError

_OFF = "no_"
_RECIPE_HELP = f"{', '.join(RECIPES)}; cctkit recipes describes them"
_CONFIG_HELP = "settings from a TOML file, or of a run: RUN/config.json"
_COMPLETIONS = {"model": completion.models, "dataset": completion.datasets, "init": completion.weights}
_OF_RECIPES = {key for recipe in RECIPES.values() for key in recipe.settings("x1")}


Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]


def recipe_option(*, default: str | None = None, panel: str | None = None) -> Any:
    """`--recipe`, whose default is named in the help."""
    return typer.Option(
        "--recipe",
        "-r",
        help=_RECIPE_HELP + (f" (default: {default})" if default else ""),
        rich_help_panel=panel,
        show_default=False,
        autocompletion=completion.recipes,
    )


def config_option(*, panel: str | None = None) -> Any:
    """`--config`."""
    return typer.Option("--config", "-c", help=_CONFIG_HELP, rich_help_panel=panel, show_default=False)


def option(name: str, *, text: str | None = None, default: object = None) -> Any:
    """The flag of one setting for a command's own parameter, checked as the setting is.

    text: help in place of the setting's.
    default: what the help names as the default.
    """
    item, hint = next(each for each in settings() if each[0].name == name)

    def check(value: Any) -> Any:
        return value if value is None or base_type(hint) is tuple else checked(name, value, hint, item.metadata)

    return typer.Option(
        *_spellings(item, hint),
        help=(text or item.metadata["help"]) + ("" if default is None else f" (default: {default})"),
        show_default=False,
        callback=check,
        autocompletion=_COMPLETIONS.get(name),
    )


def with_settings(command: Callable[..., None], *, panel: str | None = None) -> Callable[..., None]:
    """`command(..., flags=...)` as a Typer command with a flag per setting, or per setting of one panel of the help.

    `flags` holds the settings that were given.
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
    """The settings that were given: those that are not None. `--no-NAME` stands for the field's off value."""
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


def _parameters(item: dataclasses.Field[Any], hint: Any) -> list[inspect.Parameter]:
    """The flag of a field, and its `--no-` form if the field has an off value."""
    metadata, name = item.metadata, flag_name(item.name)
    kind = base_type(hint)
    shown = ("on" if item.default else "off") if kind is bool else item.default
    parts = ["the recipe's"] if item.name in _OF_RECIPES else []
    parts += [] if shown is None else [f"else {shown}" if parts else str(shown)]
    default = f" (default: {', '.join(parts)})" if parts else ""
    annotation = str if kind is tuple else kind  # sizes are given as text; the configuration checks choices
    flag = typer.Option(
        *_spellings(item, hint),
        help=metadata["help"] + default,
        rich_help_panel=metadata["panel"],
        show_default=False,
        autocompletion=_COMPLETIONS.get(item.name),
    )
    parameters = [_keyword(item.name, Annotated[annotation | None, flag])]
    if metadata["off"] is not None:
        off = typer.Option(
            f"--no-{name.removeprefix('--')}",
            help=f"same as {name} {metadata['off']}",
            rich_help_panel=metadata["panel"],
            show_default=False,
        )
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
