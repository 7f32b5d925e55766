"""Reads settings from a TOML file, flat and unchecked."""

import tomllib
from pathlib import Path
from typing import Any

from cctkit.errors import UserError
from cctkit.files import read_limited
from cctkit.text import safe_text


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, flat. They may be grouped in tables, whose names are ignored.

    Raises: UserError if the file cannot be read or is not valid TOML.
    """
    try:
        document = tomllib.loads(read_limited(path).decode("utf-8-sig"))
        str(document)  # fails for numbers of thousands of digits, which no message could show either
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read the config file: {error.strerror}", safe_text(path)) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the config file is not valid TOML: {safe_text(error)}", safe_text(path)) from error
    values: dict[str, Any] = {}
    for key, value in document.items():
        for name, setting in (value if isinstance(value, dict) else {key: value}).items():
            if name in values:
                raise UserError(f"the setting '{safe_text(name)}' is given twice", safe_text(path))
            values[name] = setting
    return values
