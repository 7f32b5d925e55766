"""Memory, open files and files on the disk over many epochs: all flat."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cctkit.training import loop
from tests.robustness.recovery import in_place, quietly
from tests.robustness.tally import Tally
from tests.robustness.work import Place, Work

_MOST_GROWTH = 2**20 * 8
AVERAGED = Work(words=("--epochs", "200", "--ema", "0.9", "--val-fraction", "0.1"), settings={})
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def long_run(seed: int, count: int, folder: Path, *, work: Work = AVERAGED) -> Tally:
    """One run of `count` epochs: from the first quarter to the end nothing grows."""
    tally = Tally(promise=3, name=f"{count} epochs: memory, descriptors, files", seed=seed)
    place = Place(folder, replace(work, words=("--epochs", str(count), *work.words[2:])))
    seen: list[tuple[int, int, int]] = []

    with in_place(place), pytest.MonkeyPatch.context() as patch:
        real = loop.save

        def save(job: Any, state: Any, history: Any) -> None:
            real(job, state, history)
            files = sum(path.is_file() for path in job.run.path.rglob("*"))
            seen.append((_resident_bytes(), len(os.listdir("/proc/self/fd")), files))

        patch.setattr(loop, "save", save)
        code, errors = quietly([*place.command("run"), "--seed", str(seed)])
    start, end = seen[len(seen) // 4], seen[-1]
    wrong = [f"exit code {code}: {errors}"] if code else []
    wrong += [f"memory grew by {(end[0] - start[0]) / 2**20:.1f} MiB"] if end[0] - start[0] > _MOST_GROWTH else []
    wrong += [
        f"{what} grew from {a} to {b}" for what, a, b in zip(("descriptors", "files"), start[1:], end[1:], strict=True) if b > a
    ]
    tally.add(seed, wrong, count=len(seen) - 1)
    tally.note = f"from epoch {len(seen) // 4}: {(end[0] - start[0]) / 2**20:+.1f} MiB, {end[1]} descriptors, {end[2]} files"
    return tally
