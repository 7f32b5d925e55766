"""`python -m tests.robustness.crash [NAME ...] [--count N] [--seed S]`: the long form of the promises about losing nothing.

Every check is repeated by its name and seed; its trials have the seeds from there on.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tests.processes import preload
from tests.robustness.faults import COMMANDS, faults_of_command, faults_of_work
from tests.robustness.kills import kills_of
from tests.robustness.long_run import long_run
from tests.robustness.numerics import false_alarms, poisons
from tests.robustness.races import killed_holders, races
from tests.robustness.recovery import power_cuts_of_packing, power_cuts_of_run
from tests.robustness.stops import PHASES, stops_in
from tests.robustness.tally import Check, table
from tests.robustness.work import WORKS

STATEFUL = replace(WORKS["chunked, float32"], settings={})
CHECKS: dict[str, tuple[Check, int]] = {
    **{f"kill: {name}": (partial(kills_of, name, work), 25) for name, work in WORKS.items()},
    "power cut: training": (partial(power_cuts_of_run, STATEFUL), 200),
    "power cut: packing": (partial(power_cuts_of_packing, WORKS["packing"]), 200),
    **{
        f"full or failing disk: {name}": (partial(faults_of_work, name, work), 0)
        for name, work in {
            "training": STATEFUL,
            **{name: WORKS[name] for name in ("--seeds 2", "packing", "exporting")},
        }.items()
    },
    **{f"full or failing disk: {name}": (partial(faults_of_command, name), 0) for name in COMMANDS},
    **{f"signal: {phase}": (partial(stops_in, phase), 20) for phase in PHASES},
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
    parser.add_argument("--count", type=int, help="trials of each (default: that of the long form); of faults 0 for all")
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
            tally = check(options.seed, count if options.count is None else options.count, Path(folder))
        tallies.append(tally)
        print(f"{name}: {tally.survived} of {tally.tried}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if options.json:
            with open(options.json, "a", encoding="utf-8") as file:
                print(json.dumps(asdict(tally)), file=file)
    print(table(tallies))
    return int(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
