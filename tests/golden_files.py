"""Whole outputs, kept as files: `CCTKIT_OVERWRITE_GOLDEN=1` writes them anew, to be read before they are committed."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare `text` with the file of this name."""
    path = FOLDER / name
    if os.environ.get("CCTKIT_OVERWRITE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
