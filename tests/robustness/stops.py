"""Signals in every phase of every kind of work: saved, with the right exit code, and what goes on ends as the unbroken one."""

import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.jobs import launch
from tests.robustness.child import Spec
from tests.robustness.outcome import differences, leftovers
from tests.robustness.tally import Tally
from tests.robustness.work import ON_A_RUN, WORKS, Place, Work

PROMISED_S = 5.0
"""From the signal to the end of the process, on a machine that nobody else uses."""
_MOST_S = 12 * PROMISED_S  # on a machine that others use
PHASES: dict[str, tuple[str, Work]] = {
    "scanning": ("cctkit.data.sources.scan:os.scandir", WORKS["EMA"]),
    "packing in training": ("cctkit.data.packed.journal:PartialFile.add", WORKS["packing"]),
    "training": ("cctkit.training.loop:train_step", WORKS["chunked, float32"]),
    "training with 2 workers": ("cctkit.training.loop:train_step", WORKS["--stream, 2 workers"]),
    "training with 2 ranks": ("cctkit.training.loop:train_step", WORKS["2 ranks"]),
    "under torchrun": ("cctkit.training.loop:train_step", WORKS["2 ranks"]),
    "evaluating": ("cctkit.evaluation.evaluate:to_device", WORKS["chunked, float32"]),
    "saving": ("cctkit.training.checkpoint:write_synced", WORKS["chunked, float32"]),
    "plotting": ("matplotlib.figure:Figure.savefig", WORKS["plotting"]),
    "exporting": ("cctkit.export.verify:evaluate_split", WORKS["exporting"]),
    "several seeds": ("cctkit.training.loop:train_step", WORKS["--seeds 2"]),
    "predicting": ("cctkit.data.preprocess:Preprocess.load", ON_A_RUN["predicting"]),
    "checking": (
        "cctkit.data.check.headers:read_header",
        Work(words=("check", "IMAGES/train", "--no-suggest"), kind="command"),
    ),
    "inspecting": ("cctkit.inspection.inspect:part", ON_A_RUN["inspecting"]),
    "writing a page": ("cctkit.inspection.inspect:render", ON_A_RUN["inspecting"]),
}
"""By name: the function in a call of which the signal comes, and the work."""
UNDER_TORCHRUN = "under torchrun"
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def stops_in(phase: str, seed: int, count: int, folder: Path, *, work: Work | None = None) -> Tally:
    """`count` signals, each of a kind and in a call by chance; a quarter of them come twice."""
    tally = Tally(promise=4, name=f"signal: {phase}", seed=seed)
    name, usual = PHASES[phase]
    place, report, took = Place(folder, work or usual), folder / "report.json", [0.0]
    place.finish("unbroken")
    place.finish("again", spec=place.spec(report=str(report), place=name))  # with the images packed, as all that follow
    calls = json.loads(report.read_text())["calls"]
    assert calls, f"{name} is never called"
    expected = place.outcome("unbroken")
    for trial in range(seed, seed + count):
        generator, output = random.Random(f"{phase} {trial}"), f"run {trial}"
        number = generator.choice(list(_CODES))
        is_twice = generator.random() < 0.25 and place.work.ranks == 1
        signals = (number, number) if is_twice else (number,)
        spec = place.spec(place=name, call=generator.randint(1, calls), signals=signals, sent=str(folder / f"sent {trial}"))
        code, errors, seconds = _stopped(place, output, spec, is_launched=phase == UNDER_TORCHRUN)
        took.append(seconds)
        is_killed = is_twice and number != signal.SIGHUP  # the second ends it at once; a closed terminal sends SIGHUP twice
        wanted = {-number} if is_killed else {_CODES[number]}
        if phase == "scanning":  # of the first look at the folders, before torch is imported, the system's own end is enough
            wanted |= {-number}
        if phase == UNDER_TORCHRUN:
            wanted = {1}  # torchrun's own
        wrong = [] if code in wanted else [f"exit code {code}, not {wanted}: {errors[-1000:]}"]
        wrong += [f"it took {seconds:.0f} s to end"] if seconds > _MOST_S else []
        if phase == UNDER_TORCHRUN and (told := errors.count("stopped and saved")) != 1:
            wrong += [f"{told} times 'stopped and saved': {errors[-1000:]}"]
        if not is_killed:
            wrong += [f"left behind: {each}" for each in leftovers(folder) if output in each and not each.endswith(".part")]
        if not place.is_done(output):
            try:
                place.finish(output, again=True)
            except RuntimeError as error:
                wrong.append(str(error)[-1000:])
        wrong += differences(place.outcome(output), expected) if not wrong else []
        tally.add(trial, [f"{each} (signal {number}{' twice' if is_twice else ''}, call {spec.call})" for each in wrong])
    calls_of = f"in one of {calls} calls of {name.rpartition(':')[2]}"
    tally.note = f"{calls_of}; the slowest ended {max(took):.1f} s after the signal"
    return tally


def _stopped(place: Place, output: str, spec: Spec, *, is_launched: bool) -> tuple[int | None, str, float]:
    """The exit code, stderr, and the time from the signal to the end of all processes."""
    if is_launched:
        words = [replace(spec, to_launcher=True).as_argument(), *place.command(output)]
        process = launch(place.work.ranks, "-m", "tests.robustness.child", *words, CCTKIT_CACHE=str(place.cache))
    else:
        process = place.start(output, spec=spec)
    _, errors = process.communicate()
    end_s = time.monotonic()
    sent = Path(spec.sent).read_text()
    return process.returncode, errors, end_s - float(sent) if sent else 0.0
