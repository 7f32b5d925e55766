"""`python -m tests.robustness.crash [NAME ...] [--count N] [--seed S]`: the long form of the promises about losing nothing.

Every check is repeated by its name and seed; its trials have the seeds from there on.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tests.processes import preload
from tests.robustness.each_operation import kills_at_each
from tests.robustness.faults import faults_of_command, faults_of_work
from tests.robustness.kills import kills_of
from tests.robustness.long_run import long_run
from tests.robustness.numerics import false_alarms, poisons
from tests.robustness.races import killed_holders, races
from tests.robustness.recovery import power_cuts_of_packing, power_cuts_of_run
from tests.robustness.stops import PHASES, stops_in
from tests.robustness.tally import Check, Tally, table
from tests.robustness.unreadable import READING, reading
from tests.robustness.work import ON_A_RUN, WORKS

STATEFUL = replace(WORKS["chunked, float32"], settings={})
WRITERS = {"training": STATEFUL, **{name: WORKS[name] for name in ("packing", "exporting", "--seeds 2")}}
_SOME = {
    "full or failing disk: --seeds 2": 150,
    "unreadable: images of --stream": 100,
    "unreadable: images to pack": 60,
    "unreadable: files for inspecting": 60,
    "unreadable: a run to export": 24,
}
"""By check: trials by chance, where all would take long."""
_ALL: dict[str, Check] = {
    **{
        f"kill at every operation: {name}": partial(kills_at_each, name, work) for name, work in {**WRITERS, **ON_A_RUN}.items()
    },
    **{f"full or failing disk: {name}": partial(faults_of_work, name, work) for name, work in WRITERS.items()},
    **{f"full or failing disk: {name}": partial(faults_of_command, name, work) for name, work in ON_A_RUN.items()},
    **{f"unreadable: {name}": partial(reading, name, work) for name, work in READING.items()},
}
CHECKS: dict[str, tuple[Check, int]] = {
    **{name: (check, _SOME.get(name, 0)) for name, check in _ALL.items()},
    **{f"signal: {phase}": (partial(stops_in, phase), 20) for phase in PHASES},
    **{f"kill: {name}": (partial(kills_of, name, work), 25) for name, work in WORKS.items()},
    "power cut: training": (partial(power_cuts_of_run, STATEFUL), 200),
    "power cut: packing": (partial(power_cuts_of_packing, WORKS["packing"]), 200),
    "race of two starts": (races, 50),
    "start after the holder was killed": (killed_holders, 20),
    "NaN, infinity, spike": (poisons, 90),
    "no false alarm": (false_alarms, 100),
    "long run": (long_run, 200),
}
"""By name: the check, and its count in the long form."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="checks, or the beginning of their names (default: all)")
    parser.add_argument(
        "--count",
        type=int,
        help="trials of each (default: that of the long form); of faults and of kills at operations 0 for all",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append the rows to this file as well")
    options = parser.parse_args()
    chosen = {name: CHECKS[name] for name in CHECKS if not options.names or name.startswith(tuple(options.names))}
    if not chosen:
        parser.error(f"no check is called so; there are {', '.join(CHECKS)}")
    preload("onnxruntime", "onnxscript", "torch.onnx._internal.exporter._core")
    tallies = []
    for name, (check, count) in chosen.items():
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                tally = check(options.seed, count if options.count is None else options.count, Path(folder))
            except Exception:  # the checks after it are made all the same
                tally = Tally(promise=0, name=name, seed=options.seed)
                tally.add(options.seed, [traceback.format_exc()])
        tallies.append(tally)
        print(f"{name}: {tally.survived} of {tally.tried}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if options.json:
            with open(options.json, "a", encoding="utf-8") as file:
                print(json.dumps(asdict(tally)), file=file)
    print(table(tallies))
    return int(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
