"""Tests of the tests: each promise's check fails on a build that is broken on purpose."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.robustness.breaks import BREAKS
from tests.robustness.each_operation import kills_at_each
from tests.robustness.faults import faults_of_work
from tests.robustness.long_run import long_run
from tests.robustness.numerics import poisons
from tests.robustness.races import killed_holders, races
from tests.robustness.recovery import power_cuts_of_packing, power_cuts_of_run
from tests.robustness.stops import stops_in
from tests.robustness.tally import Tally
from tests.robustness.unreadable import reading
from tests.robustness.work import OFTEN, ON_A_RUN, STATEFUL, WORKS, Work

SHORT = Work(words=("--epochs", "1", *STATEFUL), settings={})
OFTEN_SAVED = replace(SHORT, settings=OFTEN)
FOUND: dict[str, tuple[str, Callable[[Work, Path], Tally], Work]] = {
    "masks from a counter": ("differs", lambda work, path: killed_holders(3, 1, path, work=work), OFTEN_SAVED),
    "EMA not restored": ("differs", lambda work, path: killed_holders(3, 1, path, work=work), OFTEN_SAVED),
    "fsync of files does nothing": (
        "no checkpoint of this run is valid",
        lambda work, path: power_cuts_of_run(work, 0, 0, path),
        SHORT,
    ),
    "parents are not synced": ("lost with the whole run", lambda work, path: power_cuts_of_run(work, 0, 0, path), SHORT),
    "renamed before the fsync": ("config.json", lambda work, path: power_cuts_of_run(work, 0, 0, path), SHORT),
    "journal is not synced": (
        "images that were committed are left",
        lambda work, path: power_cuts_of_packing(work, 0, 0, path),
        WORKS["packing"],
    ),
    "a full disk is any error": (
        "exit code 2",
        lambda work, path: faults_of_work("packing", work, 0, 6, path),
        WORKS["packing"],
    ),
    "unfinished checkpoints stay": ("left behind", lambda work, path: faults_of_work("training", work, 0, 12, path), SHORT),
    "files of killed processes stay": (
        "left behind",
        lambda work, path: kills_at_each("a model card", work, 0, 2, path),
        ON_A_RUN["a model card"],
    ),
    "bad images stay bad": (
        "broken image",
        lambda work, path: reading("images to pack", work, 0, 2, path),
        WORKS["packing"],
    ),
    "late signals are swallowed": (
        "exit code 0",
        lambda work, path: stops_in("writing a page", 0, 1, path, work=work),
        ON_A_RUN["inspecting"],
    ),
    "signals are swallowed": (
        "exit code 0",
        lambda work, path: stops_in("saving", 0, 1, path, work=work),
        SHORT,
    ),
    "no lock": ("exit codes", lambda work, path: races(0, 2, path, work=work), SHORT),
    "no guard": ("not withheld", lambda work, path: poisons(4, 1, path, work=work), SHORT),
    "descriptors leak": ("descriptors grew", lambda work, path: long_run(0, 8, path, work=work), SHORT),
}
"""By the break: a part of the failure, the check, and the work that it is tried on."""
QUICK = {"parents are not synced", "journal is not synced", "no guard", "a full disk is any error"}


def test_every_break_is_looked_for() -> None:
    assert FOUND.keys() == BREAKS.keys()


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FOUND])
def test_a_broken_build_is_found(name: str, tmp_path: Path) -> None:
    expected, check, work = FOUND[name]
    tally = check(replace(work, broken=name), tmp_path)
    assert tally.survived < tally.tried
    assert any(expected in fault for _, fault in tally.failures), tally.failures[:3]
