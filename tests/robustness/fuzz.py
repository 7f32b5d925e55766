"""`make fuzz`: everything that this folder tries, unattended and in large numbers, as one table.

`python -m tests.robustness.fuzz --seed 0 --count 1000`; what has failed is repeated with the `--only`, `--first` and `--count`
that are printed with it. Each row runs in a process of its own: one that hangs or dies is a failure and ends nothing else.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from tests.probes import write_probe
from tests.robustness.originals import Originals, make_originals
from tests.robustness.readers import READERS, attempts
from tests.robustness.rest import REST
from tests.robustness.trials import Tally

_SILENT_S = 60.0  # after which an attempt that no signal could interrupt is killed
_HEADINGS = ("promise", "what is tried", "guarded by", "tried", "survived", "refused", "equal", "other", "failed", "seed")


def fuzz_reader(name: str, originals: Originals, folder: Path, *, seed: int, first: int, count: int) -> Tally:
    """The mutants of one reader, with those that kill the process, or hang where no signal arrives, counted as failed."""
    found = Tally(promise=6, what=name, guard=READERS[name].guard, seed=seed)
    context = multiprocessing.get_context("fork")
    upto = first + count
    while first < upto:
        ours, theirs = context.Pipe(duplex=False)
        arguments = (theirs, name, originals, folder, seed, first, upto - first)
        process = context.Process(target=_attempts, args=arguments)
        process.start()
        theirs.close()
        why = ""
        try:
            while ours.poll(_SILENT_S):
                number, outcome, reason = ours.recv()
                found.add(outcome, reason, of=f"{name} {number}")
                first = number + 1
            why = f"it hangs, and was killed after {_SILENT_S:.0f} s"
            process.kill()
        except EOFError:
            process.join()
            why = f"the process ended with {process.exitcode}"
        process.join()
        if first < upto:
            found.add("failed", why, of=f"{name} {first}")
            first += 1
    return found


def _attempts(to: Connection, name: str, originals: Originals, folder: Path, seed: int, first: int, count: int) -> None:
    """In the forked process."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for event in attempts(READERS[name], originals, folder, seed=seed, first=first, count=count):
        to.send(event)
    to.close()


def fuzz_rest(name: str, originals: Originals, folder: Path, *, seed: int) -> Tally:
    """A row that does not depend on the seed, in a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_rest, args=(theirs, name, originals, folder))
    process.start()
    theirs.close()
    promise, guard, _ = REST[name]
    found = Tally(promise=promise, what=name, guard=guard, seed=seed)
    try:
        while ours.poll(_SILENT_S * 10):
            found.add(*ours.recv())
        found.add("failed", "it hangs, and was killed")
        process.kill()
    except EOFError:
        process.join()
        if process.exitcode:
            found.add("failed", f"the process ended with {process.exitcode}")
    process.join()
    return found


def _rest(to: Connection, name: str, originals: Originals, folder: Path) -> None:
    """In the forked process."""
    folder.mkdir()
    for what, faults in REST[name][2](originals, folder):
        to.send(("failed" if faults else "refused", f"{what}: {'; '.join(faults)}"))
    to.close()


def row(tally: Tally, *, seeded: bool) -> str:
    """A row of the table in Markdown."""
    counts = [tally.counts[key] for key in ("refused", "equal", "other")] if seeded else ["", "", ""]
    cells = (tally.promise, tally.what, tally.guard, f"{tally.tried:,}", f"{tally.survived:,}", *counts, tally.counts["failed"])
    return f"| {' | '.join(map(str, cells))} | {tally.seed if seeded else ''} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="mutants per reader (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--only", action="append", choices=[*READERS, *REST], help="a row of the table; may be repeated")
    options = parser.parse_args(arguments)
    place = Path(tempfile.mkdtemp(prefix="cctkit-fuzz-"))
    os.environ["CCTKIT_CACHE"] = str(place / "cache")
    (place / "cache").mkdir()
    write_probe(place / "cache")
    originals = make_originals(place / "originals")
    print(f"| {' | '.join(_HEADINGS)} |\n| {' | '.join(['---'] * len(_HEADINGS))} |", flush=True)
    failed = False
    start = time.monotonic()
    for number, name in enumerate(options.only or [*READERS, *REST]):
        if name in REST:
            tally = fuzz_rest(name, originals, place / f"rest-{number}", seed=options.seed)
        else:
            tally = fuzz_reader(name, originals, place / "mutants", seed=options.seed, first=options.first, count=options.count)
        print(row(tally, seeded=name in READERS), flush=True)
        for failure in tally.failures:
            again = f"python -m tests.robustness.fuzz --seed {options.seed} --only '{name}' --first NUMBER --count 1"
            print(f"{failure}\n  again: {again}", file=sys.stderr, flush=True)
        failed = failed or bool(tally.failures)
    print(f"{time.monotonic() - start:,.0f} s", file=sys.stderr)
    shutil.rmtree(place)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
