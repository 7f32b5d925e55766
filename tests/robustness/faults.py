"""ENOSPC and EIO at every file operation of every command that writes: exit 4, nothing lost, nothing temporary left."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.operations import Operation, Operations
from tests.robustness.outcome import differences, leftovers, sha256
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
            _remove(folder / output, place.suffix)
    tally.note = f"of {len(operations.seen)} file operations"
    return tally


def _remove(path: Path, suffix: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def _wrong_end(code: int, errors: str, at: Operation) -> list[str]:
    if code == 0 and at.kind in CLEANING:
        return []
    if code != 4:
        return [f"exit code {code}: {errors[-500:]}"]
    lines = errors.splitlines()
    start = max((number for number, line in enumerate(lines) if line.startswith("error:")), default=0)
    return [f"{len(lines) - start} lines: {errors}"] if not 1 <= len(lines) - start <= 3 else []


COMMANDS: dict[str, tuple[str, ...]] = {
    "evaluating": ("eval", "RUN", "--quiet"),
    "evaluating a file": (
        "eval",
        "RUN/weights.safetensors",
        "--dataset",
        "IMAGES",
        "--save-predictions",
        "OUT.safetensors",
        "--quiet",
    ),
    "tables of classes": ("eval", "RUN", "--csv", "OUT.csv", "--quiet"),
    "curves": ("curves", "RUN", "--output", "OUT.svg"),
    "the schedule": ("plot-lr", "--epochs", "4", "--output", "OUT.svg"),
    "comparing": ("compare", "--plot", "OUT.svg"),
    "the confusion matrix": ("eval", "RUN", "--confusion", "OUT.svg", "--quiet"),
    "predicting": ("predict", "IMAGES/test", "--model", "RUN", "--csv", "OUT.csv", "--quiet"),
    "heat maps": ("predict", "IMAGES/test", "--model", "RUN", "--heatmap", "OUT", "--quiet"),
    "a model card": ("card", "RUN", "-o", "OUT"),
}
"""Commands that write one thing each: a file, a folder, or the predictions of the run."""


def tree(folder: Path) -> dict[str, str]:
    """Every file below `folder` but locks, and its digest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def faults_of_command(name: str, seed: int, count: int, folder: Path) -> Tally:
    """A command on a finished run: after exit 4 every file is as it was, and the same command then gives the same."""
    tally = Tally(promise=3, name=f"full or failing disk: {name}", seed=seed)
    place = Place(folder, Work(words=("--epochs", "1")))
    here = {"RUN": str(folder / "run"), "IMAGES": str(place.images), "OUT": str(folder / "out" / "put")}
    (folder / "out").mkdir()
    words = list(COMMANDS[name])
    for key, value in here.items():
        words = [word.replace(key, value) for word in words]
    with in_place(place):
        assert quietly(place.command("run"))[0] == 0
        shutil.copytree(folder / "run", folder / "kept")
        with Operations(folder) as operations:
            code, errors = quietly(words)
        assert code == 0, errors
        expected = tree(folder / "out") | tree(folder / "run")
        for fault in faults(operations.seen, seed, count):
            for path in (folder / "out", folder / "run"):
                shutil.rmtree(path)
            (folder / "out").mkdir()
            shutil.copytree(folder / "kept", folder / "run")
            before = tree(folder / "run")
            with Operations(folder, fault.before) as failing:
                code, errors = quietly(words)
            if len(failing.seen) < fault.number:
                continue
            at = failing.seen[fault.number - 1]
            wrong = _wrong_end(code, errors, at)
            left, now = tree(folder / "out"), tree(folder / "run")
            is_whole = left.items() <= expected.items()  # it has its name, which may not be durable yet
            if code and not (is_whole and now in (before, {**before, **{key: expected[key] for key in before}})):
                wrong += [f"left behind: {sorted(left) or 'a changed run'}"]
            shutil.rmtree(folder / "out")
            (folder / "out").mkdir()
            code, errors = quietly(words)
            found = tree(folder / "out") | tree(folder / "run")
            wrong += [f"then exit code {code}: {errors}"] if code else differences(found, expected)
            tally.add(seed, [f"{each} ({errno.errorcode[fault.errno]} at {fault.number}, {at})" for each in wrong])
    tally.note = f"of {len(operations.seen)} file operations"
    return tally
