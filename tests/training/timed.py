"""A run by a clock that only its steps, evaluations and checkpoints move: `python -m tests.training.timed`, or `timed()`."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cctkit.training import budget, loop, timing


@dataclass
class Clock:
    """Seconds of an own time. step_s, image_s, save_s: of a training step, an evaluated image, a checkpoint."""

    step_s: float
    image_s: float = 0.0
    save_s: float = 0.0
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def before(self, work: Any, seconds: Any) -> Any:
        def timed(*arguments: Any, **named: Any) -> Any:
            self.now += seconds(*arguments)
            return work(*arguments, **named)

        return timed


@contextlib.contextmanager
def timed(clock: Clock) -> Iterator[None]:
    """`--time` is measured by `clock`."""
    begin = budget.Budget.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget.Budget, "begin", lambda text: replace(begin(text), began=clock.now, clock=clock))
        step = clock.before(loop.train_step, lambda *_: clock.step_s)
        save = clock.before(loop.save, lambda *_: clock.save_s)
        for module in (loop, timing):
            patch.setattr(module, "train_step", step)
            patch.setattr(module, "save", save)
        patch.setattr(loop, "evaluate_split", clock.before(loop.evaluate_split, lambda _, split: clock.image_s * len(split)))
        yield


if __name__ == "__main__":
    from cctkit.cli import app

    with timed(Clock(step_s=0.5 + int(os.environ["RANK"]))):  # each rank by a clock of its own
        sys.exit(app.run(sys.argv[1:]))
