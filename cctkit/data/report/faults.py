"""Report all faults of a folder at once."""

import time

from cctkit.data.packed.decode import decoded
from cctkit.data.preprocess import Preprocess
from cctkit.data.report.findings import FaultsError, Finding, broken_images
from cctkit.data.source import Origin, Progress
from cctkit.errors import StoppedError
from cctkit.text import safe_text

_LONGEST_S = 60.0
BROKEN_REMEDY = "fix or remove them, or skip them with --skip-bad"


class _EnoughError(Exception):
    """The time for reading images is over."""


def refuse_faulty(origin: Origin, *, read: bool, progress: Progress) -> None:
    """Raise if the folder has faults. Its images are then read too, for at most a minute, to report broken ones as well.

    read: whether a broken image is a fault.

    Raises: FaultsError with all faults; StoppedError.
    """
    faults = [finding for finding in origin.findings if finding.level == "fault"]
    if not faults:
        return
    where = safe_text(origin.address)
    try:
        found = _broken(origin, progress) if read else []
    except StoppedError as stop:
        so_far = "; ".join(fault.in_short() for fault in faults)
        raise StoppedError(stop.signal_number, f"stopped; found so far in {where}: {so_far}") from stop
    warnings = [finding for finding in origin.findings if finding.level == "warning"]
    raise FaultsError([*faults, *found], where, warnings)


def _broken(origin: Origin, progress: Progress) -> list[Finding]:
    source, end_s = origin.load(progress), time.monotonic() + _LONGEST_S
    small = Preprocess(stored_size=(8, 8), resize_mode="squash")
    bad: list[str] = []

    def told(what: str, done: int, total: int) -> None:
        progress(f"{what} to find more faults", done, total)
        if time.monotonic() > end_s:
            raise _EnoughError

    try:
        for images in decoded(source, start=0, preprocess=small, progress=told):
            bad += [f"{safe_text(source.ids[i])}: {safe_text(why)}" for i, why in images.bad.items()]
    except _EnoughError:
        pass
    return [broken_images(bad, level="fault", remedy=BROKEN_REMEDY)] if bad else []
