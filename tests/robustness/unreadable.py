"""EIO at every file that is opened and in every read: exit 4 or 2, nothing changed, and the same result when it can be read."""

import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.robustness.faults import changed, wrong_end
from tests.robustness.outcome import differences, leftovers, tree
from tests.robustness.reads import BadSector, Read, Reads
from tests.robustness.recovery import heard, in_place, quietly
from tests.robustness.tally import Tally
from tests.robustness.work import ON_A_RUN, STATEFUL, WORKS, Place, Work

_WORDS = ("--epochs", "1", *STATEFUL)
_RESUMED = replace(WORKS["chunked, float32"], words=("--epochs", "2", *STATEFUL))
READING: dict[str, Work] = {
    "packed images": Work(words=_WORDS, settings={}),
    "images of --stream": Work(words=("--stream", *_WORDS), settings={}),
    "a run to resume": _RESUMED,
    "images to pack": WORKS["packing"],
    "a run to export": WORKS["exporting"],
    **{f"files for {name}": ON_A_RUN[name] for name in ("evaluating", "curves", "predicting", "heat maps", "a model card")},
    **{f"files for {name}": ON_A_RUN[name] for name in ("importing", "inspecting")},
}
"""By what is read."""
_CUT_AT = 8
"""The step of ten in which a run is cut off, which is resumed."""


class Reader:
    """Trials of one work that reads: each begins as the first did."""

    def __init__(self, work: Work, folder: Path) -> None:
        self.place = Place(folder, work)
        self._resumes = work is _RESUMED
        if self._resumes:
            spec = self.place.spec(place="cctkit.training.loop:train_step", call=_CUT_AT, signals=(signal.SIGKILL,))
            self.place.start("cut", spec=spec).communicate()

    def begin(self, output: str) -> list[str]:
        """The command, once all is there that it needs."""
        self.place.prepare(output)
        if self._resumes:
            shutil.copytree(self.place.folder / "cut", self.place.folder / output)
        return self.place.again(output) if self._resumes else self.place.command(output)

    def state(self, output: str) -> dict[str, Any]:
        """Of a command on a finished run: all files that it may change."""
        return tree(self.place.folder / output) if self.place.work.kind == "command" else {}


def reading(name: str, work: Work, seed: int, count: int, folder: Path) -> Tally:
    """`count` of the faults, by chance; 0: all. Each read fails once, or its file fails from then on."""
    tally = Tally(promise=3, name=f"unreadable: {name}", seed=seed)
    reader = Reader(work, folder)
    place = reader.place
    with in_place(place):
        for output in ("unbroken", "again"):
            words = reader.begin(output)
            with Reads(folder) as reads:
                code, errors = quietly(words)
            assert code == 0, errors
        expected, given = place.outcome("unbroken"), tree(place.images)
        every = [BadSector(number, stays) for number in range(1, len(reads.seen) + 1) for stays in (False, True)]
        for fault in random.Random(seed).sample(every, min(count or len(every), len(every))):
            output = f"run {fault.number} {fault.stays}"
            words, before = reader.begin(output), reader.state(output)
            with Reads(folder, fault.before) as failing:
                code, out, errors = heard(words)
            wrong = _wrong(reader, output, code, out + errors, before, expected)
            wrong += [f"left behind: {each}" for each in leftovers(folder) if output in each and not each.endswith(".part")]
            wrong += _then(place, output, code, expected)
            at = failing.seen[fault.number - 1] if len(failing.seen) >= fault.number else Read("nothing", os.devnull)
            tally.add(seed, [f"{each} ({'all from' if fault.stays else 'once at'} {fault.number}, {at})" for each in wrong])
            place.remove(output)
        tally.add(seed, ["an image was changed"] if tree(place.images) != given else [], count=0)
    tally.note = f"of {len(every)}: {len(reads.seen)} times a file is opened, read, or a folder listed"
    return tally


def _wrong(reader: Reader, output: str, code: int, printed: str, before: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is wrong at once. A command that leaves out what it cannot read says so, in the rows or in a part of the page."""
    pages = [path.read_text(encoding="utf-8") for path in (reader.place.folder / output).rglob("*.html")]
    is_told = "Input/output error" in printed or "could not be read; the others are done" in printed
    is_told |= any("cannot be read" in page for page in pages)
    if code == 0:
        return [] if is_told else differences(reader.place.outcome(output), expected)
    wrong = wrong_end(code, printed, {2, 4})
    return wrong if is_told and "the others are done" in printed else wrong + changed(before, reader.state(output), expected)


def _then(place: Place, output: str, code: int, expected: dict[str, Any]) -> list[str]:
    """What is wrong with what the same command gives when everything can be read."""
    place.clear(output)
    if code == 0 and place.work.kind != "command":
        return differences(place.outcome(output), expected)
    code, errors = quietly(place.again(output))
    return [f"then exit code {code}: {errors[-500:]}"] if code else differences(place.outcome(output), expected)
