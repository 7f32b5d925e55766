"""Settings in a TOML file or a run's `config.json`: read, flat and unchecked, and written."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cctkit.errors import UserError
from cctkit.runfiles import read_object
from cctkit.text import safe_text


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, flat; tables may group them, their names carry no meaning.

    Raises: UserError where the file cannot be read or is no TOML.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        str(document)  # fails for a number of thousands of digits, which no message could show either
    except OSError as error:
        raise UserError(f"cannot read the config file: {error.strerror}", safe_text(path)) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the config file is no TOML: {safe_text(error)}", safe_text(path)) from error
    values: dict[str, Any] = {}
    for key, value in document.items():
        for name, setting in (value if isinstance(value, dict) else {key: value}).items():
            if name in values:
                raise UserError(f"the setting '{safe_text(name)}' is there twice", safe_text(path))
            values[name] = setting
    return values


def read_config(path: Path | None, *, recipe: str | None) -> tuple[dict[str, Any], str | None]:
    """The settings of a config file, flat, and the recipe: `recipe` where that is given, else the file's.

    path: TOML, a run's `config.json`, or the run directory; None: no settings.

    Raises: UserError where the file cannot be read or is neither; or where `recipe` would change nothing, as the `config.json`
    of a run has a value for every setting.
    """
    if path is None:
        return {}, recipe
    if path.is_dir() or path.suffix == ".json":
        file = path / "config.json" if path.is_dir() else path
        stored = read_object(file, {"values": dict, "recipe": (str, None)})
        if recipe not in (None, stored["recipe"]):
            raise UserError(
                f"--recipe {safe_text(recipe)} would change nothing: a run's config.json has every setting",
                safe_text(file),
                "leave out --recipe, or give the settings that are to differ as flags",
            )
        return stored["values"], stored["recipe"]
    values = read_toml(path)
    named = values.pop("recipe", None)
    return values, recipe or (None if named is None else str(named))


def to_toml(values: Mapping[str, Any]) -> str:
    """Flat settings as TOML; what is None is left out. `read_toml` gives them back.

    TOML's strings are JSON's, but that they escape a delete character too.
    """
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None}
    return "".join(f"{key} = {text}\n" for key, text in texts.items()).replace("\x7f", "\\u007f")
