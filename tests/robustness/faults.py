"""ENOSPC and EIO at every file operation of every command that writes: exit 4, nothing lost, nothing temporary left."""

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.robustness.operations import Operation, Operations
from tests.robustness.outcome import differences, leftovers
from tests.robustness.recovery import in_place, quietly
from tests.robustness.tally import Tally
from tests.robustness.work import Place, Work

_NEEDS_SPACE = {"create", "write", "mkdir", "rename"}
CLEANING = {"unlink", "rmdir"}
"""Operations of which a failure may be no error: what is left of old checkpoints or locks is in nobody's way."""


@dataclass(frozen=True, slots=True)
class Fault:
    """number: the operation that fails, from 1. A full disk stays full for all that needs space; a failing one fails once.

    A write that fails has written nothing, as POSIX has it: one that has written a part succeeds, and the next one fails.
    """

    errno: int
    number: int

    def before(self, number: int, operation: Operation, write: Callable[[int], None]) -> None:
        full = self.errno == errno.ENOSPC and number > self.number and operation.kind in _NEEDS_SPACE
        if number == self.number or full:
            raise OSError(self.errno, os.strerror(self.errno), operation.path)


def faults(operations: list[Operation], seed: int, count: int) -> list[Fault]:
    """`count` of all faults by chance; 0: all. A full disk fails no removal and no fsync of a directory."""
    every = [Fault(errno.EIO, number) for number in range(1, len(operations) + 1)]
    every += [
        Fault(errno.ENOSPC, number) for number, each in enumerate(operations, start=1) if each.kind in {*_NEEDS_SPACE, "sync"}
    ]
    return random.Random(seed).sample(every, min(count, len(every))) if count else every


def faults_of_work(name: str, work: Work, seed: int, count: int, folder: Path) -> Tally:
    """A run, several seeds, a packing or an export: goes on to the same end when there is space again."""
    tally = Tally(promise=3, name=f"full or failing disk: {name}", seed=seed)
    place = Place(folder, work)
    with in_place(place):
        code, errors = quietly(place.command("unbroken"))
        assert code == 0, errors
        expected = place.outcome("unbroken")
        with Operations(folder) as operations:
            assert quietly(place.command("again"))[0] == 0
        chosen = faults(operations.seen, seed, count)
        for fault in chosen:
            output = f"run {fault.errno} {fault.number}"
            with Operations(folder, fault.before) as failing:
                code, errors = quietly(place.command(output))
            if len(failing.seen) < fault.number:  # a run that did less than the one before, as what is cached was there
                continue
            wrong = _wrong_end(code, errors, failing.seen[fault.number - 1])
            left = [each for each in leftovers(folder) if output in each]
            wrong += [f"left behind: {each}" for each in left]
            is_whole = work.kind in ("pack", "export") and place.is_done(output)  # which would not be overwritten
            code, errors = (0, "") if is_whole else quietly(place.again(output))
            wrong += [f"then exit code {code}: {errors}"] if code else differences(place.outcome(output), expected)
            at = f"{errno.errorcode[fault.errno]} at {fault.number}, {failing.seen[fault.number - 1]}"
            tally.add(seed, [f"{each} ({at})" for each in wrong])
            place.remove(output)
    tally.note = f"of {len(operations.seen)} file operations"
    return tally


def _wrong_end(code: int, errors: str, at: Operation) -> list[str]:
    return [] if code == 0 and at.kind in CLEANING else wrong_end(code, errors, {4})


def wrong_end(code: int, errors: str, expected: set[int]) -> list[str]:
    """What is wrong with an exit code and a message, which has at most three lines."""
    if code not in expected:
        return [f"exit code {code}: {errors[-500:]}"]
    lines = errors.splitlines()
    start = max((number for number, line in enumerate(lines) if line.startswith("error:")), default=0)
    return [f"{len(lines) - start} lines: {errors}"] if not 1 <= len(lines) - start <= 3 else []


def faults_of_command(name: str, work: Work, seed: int, count: int, folder: Path) -> Tally:
    """A command on a finished run: after exit 4 every file is as it was, and the same command then gives the same."""
    tally = Tally(promise=3, name=f"full or failing disk: {name}", seed=seed)
    place = Place(folder, work)
    with in_place(place):
        expected, operations = done(place, "unbroken"), Operations(folder)
        place.prepare("again")
        with operations:
            assert quietly(place.command("again"))[0] == 0
        for fault in faults(operations.seen, seed, count):
            output = f"run {fault.errno} {fault.number}"
            place.prepare(output)
            before = place.outcome(output)
            with Operations(folder, fault.before) as failing:
                code, errors = quietly(place.command(output))
            if len(failing.seen) < fault.number:
                continue
            at = failing.seen[fault.number - 1]
            wrong = _wrong_end(code, errors, at)
            wrong += changed(before, place.outcome(output), expected) if code else []
            place.clear(output)
            code, errors = quietly(place.command(output))
            wrong += [f"then exit code {code}: {errors}"] if code else differences(place.outcome(output), expected)
            tally.add(seed, [f"{each} ({errno.errorcode[fault.errno]} at {fault.number}, {at})" for each in wrong])
            place.remove(output)
    tally.note = f"of {len(operations.seen)} file operations"
    return tally


def done(place: Place, output: str) -> dict[str, Any]:
    """The outcome of a command that nothing disturbs, in this process."""
    place.prepare(output)
    code, errors = quietly(place.command(output))
    assert code == 0, errors
    return place.outcome(output)


def changed(before: dict[str, Any], after: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What a command that failed has changed, but for whole files: one has its name, which may not be durable yet."""
    return [f"left behind: {name}" for name, value in after.items() if value not in (before.get(name), expected.get(name))] + [
        f"lost: {name}" for name in before.keys() - after.keys()
    ]
