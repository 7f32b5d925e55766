"""Signals in every phase of every kind of work: saved, with the right exit code, and what goes on ends as the unbroken one."""

import json
import random
import signal
import time
from pathlib import Path

from tests.robustness.outcome import differences, leftovers
from tests.robustness.tally import Tally
from tests.robustness.work import WORKS, Place, Work

PROMISED_S = 5.0
PHASES: dict[str, tuple[str, Work]] = {
    "scanning": ("cctkit.data.sources.scan:os.scandir", WORKS["EMA"]),
    "packing in training": ("cctkit.data.packed.journal:PartialFile.add", WORKS["packing"]),
    "training": ("cctkit.training.loop:train_step", WORKS["chunked, float32"]),
    "training with 2 workers": ("cctkit.training.loop:train_step", WORKS["--stream, 2 workers"]),
    "training with 2 ranks": ("cctkit.training.loop:train_step", WORKS["2 ranks"]),
    "evaluating": ("cctkit.evaluation.evaluate:to_device", WORKS["chunked, float32"]),
    "saving": ("cctkit.training.checkpoint:write_synced", WORKS["chunked, float32"]),
    "plotting": ("matplotlib.figure:Figure.savefig", WORKS["plotting"]),
    "exporting": ("cctkit.export.verify:evaluate_split", WORKS["exporting"]),
    "several seeds": ("cctkit.training.loop:train_step", WORKS["--seeds 2"]),
}
"""By name: the function in a call of which the signal comes, and the work."""
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def stops_in(phase: str, seed: int, count: int, folder: Path, *, work: Work | None = None) -> Tally:
    """`count` signals, each of a kind and in a call by chance; a quarter of them come twice."""
    tally = Tally(promise=4, name=f"signal: {phase}", seed=seed)
    name, usual = PHASES[phase]
    place, report, slowest = Place(folder, work or usual), folder / "report.json", 0.0
    place.finish("unbroken", spec=place.spec(report=str(report), place=name))
    calls = json.loads(report.read_text())["calls"]
    assert calls, f"{name} is never called"
    expected = place.outcome("unbroken")
    for trial in range(seed, seed + count):
        generator, output = random.Random(f"{phase} {trial}"), f"run {trial}"
        number = generator.choice(list(_CODES))
        is_twice = generator.random() < 0.25 and place.work.ranks == 1
        spec = place.spec(place=name, call=generator.randint(1, calls), signals=(number, number) if is_twice else (number,))
        begun = time.monotonic()
        process = place.start(output, spec=spec)
        _, errors = process.communicate()
        slowest = max(slowest, time.monotonic() - begun)
        is_killed = is_twice and number != signal.SIGHUP  # the second ends it at once; a closed terminal sends SIGHUP twice
        wanted = {-number} if is_killed else {_CODES[number]}
        if phase == "scanning":  # of the first look at the folders, before torch is imported, the system's own end is enough
            wanted |= {-number}
        wrong = [] if process.returncode in wanted else [f"exit code {process.returncode}, not {wanted}: {errors[-1000:]}"]
        if not is_killed:
            wrong += [f"left behind: {each}" for each in leftovers(folder) if output in each and not each.endswith(".part")]
        if not place.is_done(output):
            try:
                place.finish(output, again=True)
            except RuntimeError as error:
                wrong.append(str(error)[-1000:])
        wrong += differences(place.outcome(output), expected) if not wrong else []
        tally.add(trial, [f"{each} (signal {number}{' twice' if is_twice else ''}, call {spec.call})" for each in wrong])
    tally.note = f"in one of {calls} calls of {name.rpartition(':')[2]}; the slowest took {slowest:.1f} s from its start"
    return tally
