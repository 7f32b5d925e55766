"""Settings in a TOML file: read, flat and unchecked, and written."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cctkit.errors import UserError
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


def to_toml(values: Mapping[str, Any]) -> str:
    """Flat settings as TOML; what is None is left out. `read_toml` gives them back.

    TOML's strings are JSON's, but that they escape a delete character too.
    """
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None}
    return "".join(f"{key} = {text}\n" for key, text in texts.items()).replace("\x7f", "\\u007f")
