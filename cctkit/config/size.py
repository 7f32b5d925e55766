"""Image sizes, and how users write them."""

import re

from cctkit.errors import UserError
from cctkit.text import safe_text

Size = tuple[int, int]
"""Height and width in pixels."""

MAX_PIXELS = 64_000_000
"""Default of --max-pixels."""

_SIZE = re.compile(r"([0-9]{1,5})(?:x([0-9]{1,5}))?")


def parse_size(text: object) -> Size:
    """`32` -> (32, 32); `48x32` -> (48, 32), height first.

    Raises: UserError for anything else.
    """
    joined = "x".join(map(str, text)) if isinstance(text, (list, tuple)) else str(text)
    found = _SIZE.fullmatch(joined.lower())
    numbers = [int(side) for side in found.groups() if side] if found else []
    if not numbers or min(numbers) < 1:
        raise UserError(f"the image size is '{safe_text(text)}', expected pixels: 32, or HEIGHTxWIDTH: 48x32", "--image-size")
    return numbers[0], numbers[-1]
