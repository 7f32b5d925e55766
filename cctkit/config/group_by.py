"""Check the value of `--group-by`."""

import re

from cctkit.errors import UserError
from cctkit.text import safe_text

FLAG = "--group-by"


def check_group_by(text: str) -> None:
    """Raise if this is neither a folder level nor a regular expression.

    Raises: UserError.
    """
    if re.fullmatch(r"[+-]*\d+", text):
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
            raise UserError(f"folder level {safe_text(text)}, expected 1 or more", FLAG, "1 is the folder inside of the class")
        return
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"not a regular expression: {safe_text(error)}", FLAG) from error
