"""Durations as users write them: `90s`, `30m`, `2h`, `1h30m`."""

import math
import re

from cctkit.errors import UserError
from cctkit.text import safe_text

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WRITTEN = re.compile("".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,9}})?){unit})?" for unit in _UNITS_S), re.ASCII)
_LONGEST_S = 365 * 86400


def parse_duration(text: object, flag: str) -> float:
    """Seconds, from days, hours, minutes and seconds in this order: `1h30m` -> 5400.

    Raises: UserError that names `flag` if the text is no duration, or is not above 0 and at most 365 days.
    """
    found = _WRITTEN.fullmatch(text.replace(" ", "")) if isinstance(text, str) else None
    if not found or not any(found.groups()):
        shown = safe_text(repr(text), 40)
        raise UserError(f"{flag} is {shown}, expected a duration", flag, "such as 90s, 30m, 2h or 1h30m")
    seconds = sum(float(number) * unit for number, unit in zip(found.groups(), _UNITS_S.values(), strict=True) if number)
    if not 0 < seconds <= _LONGEST_S:
        raise UserError(f"{flag} is {safe_text(text, 40)}, expected more than 0s and at most 365d", flag)
    return seconds


def duration_text(seconds: float) -> str:
    """`4.25` -> 4.2s; `95` -> 95s; `1800` -> 30m; `5460` -> 1h31m. At most 2% off from 10 s on."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 119.5:
        return f"{seconds:.0f}s"
    if seconds < 3570:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}m{rest}s" if rest and minutes < 10 else f"{round(seconds / 60)}m"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"


def round_up_duration(seconds: float) -> float:
    """The next multiple of 5 s, from 2 minutes on of 1 minute, from 2 hours on of 10 minutes."""
    unit = 5 if seconds <= 120 else 60 if seconds <= 7200 else 600
    return math.ceil(seconds / unit) * unit
