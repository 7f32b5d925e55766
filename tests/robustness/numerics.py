"""NaN, infinity and a spike in the input, the loss or a gradient: exit 3, the update withheld, everything written finite."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cctkit.catalog.recipes import RECIPES
from cctkit.data.epoch.augment import Batch
from cctkit.runs.runfiles import read_metrics
from cctkit.training import loop
from cctkit.training import step as step_module
from tests.robustness.recovery import in_place, quietly
from tests.robustness.tally import Tally
from tests.robustness.work import STATEFUL, Place, Work

POISONS = (math.nan, math.inf, 1e4)
TRAINING = Work(words=("--epochs", "2", *STATEFUL), settings={})
PLACES = ("input", "loss", "gradient")


class Poisoned:
    """Patches training so that one step is poisoned, and tells whether its update was withheld."""

    def __init__(self, patch: pytest.MonkeyPatch, *, place: str, poison: float, step: int) -> None:
        self.place, self.poison, self.step = place, poison, step
        self.changed = self.flagged = False
        self._real, self._losses, self._is_now = loop.train_step, step_module.losses, False
        patch.setattr(loop, "train_step", self._train_step)
        patch.setattr(step_module, "losses", self._poisoned_losses)

    def _train_step(self, state: Any, batch: Batch, **named: Any) -> None:
        self._is_now = state.step == self.step
        before = [weight.detach().clone() for weight in state.model.parameters()]
        handles: list[Any] = []
        if self._is_now and self.place == "input":
            batch = replace(batch, images=batch.images * self.poison)
        if self._is_now and self.place == "gradient":
            handles = [weight.register_hook(lambda gradient: gradient * self.poison) for weight in state.model.parameters()]
        self._real(state, batch, **named)
        for handle in handles:
            handle.remove()
        if self._is_now:
            self.flagged = bool(state.diverged)
            self.changed = any(not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True))

    def _poisoned_losses(self, *arguments: Any, **named: Any) -> Any:
        found = self._losses(*arguments, **named)
        if not (self._is_now and self.place == "loss"):
            return found
        return found._replace(smoothed=found.smoothed * self.poison, objective=found.objective * self.poison)


def not_finite(run: Path) -> list[str]:
    """The files of a run with a tensor or a figure that is not finite; the norms of steps that have not been are NaN."""
    wrong = []
    for path in (*run.glob("*.safetensors"), *run.glob("checkpoints/step-*/*.safetensors")):
        for name, tensor in load_file(path).items():
            if tensor.is_floating_point() and name != "norms" and not bool(tensor.isfinite().all()):
                wrong.append(f"{path.relative_to(run)}: {name} is not finite")
    records = read_metrics(run / "metrics.jsonl")
    values = [value for record in records for value in record.values() if value is None or isinstance(value, float)]
    return wrong + ["metrics are not finite" for value in values if value is None or not math.isfinite(value)][:1]


def poisons(seed: int, count: int, folder: Path, *, work: Work = TRAINING) -> Tally:
    """`count` poisons by chance: kind, place, step, number format. Normalisation may undo a spike of the input: then exit 0."""
    tally = Tally(promise=7, name="NaN, infinity, spike", seed=seed)
    harmless = 0
    places = {
        precision: Place(folder / precision, replace(work, probe=f"{precision},chunked")) for precision in ("float32", "bf16")
    }
    for trial in range(seed, seed + count):
        generator = random.Random(trial)
        poison, where = POISONS[trial % 3], PLACES[trial // 3 % 3]
        place, step = places[generator.choice(("float32", "bf16"))], generator.randint(2, 4)
        with in_place(place), pytest.MonkeyPatch.context() as patch:
            poisoned = Poisoned(patch, place=where, poison=poison, step=step)
            code, errors = quietly(place.command(f"run {trial}"))
        wrong = not_finite(place.folder / f"run {trial}")
        if poisoned.flagged or where != "input" or poison != 1e4:
            wrong += [f"exit code {code}: {errors}"] if code != 3 else []
            wrong += ["the update was not withheld"] if poisoned.changed else []
        else:
            wrong += [f"exit code {code}: {errors}"] if code else []
            harmless += 1
        tally.add(trial, [f"{each} ({poison} in {where}, step {step})" for each in wrong])
    tally.note = f"{harmless} spikes of the input were undone by normalisation and trained on" if harmless else ""
    return tally


def false_alarms(seed: int, count: int, folder: Path) -> Tally:
    """`count` short runs over all recipes: none is called diverged. The note has the largest gradient norm over its median."""
    tally = Tally(promise=7, name="no false alarm", seed=seed)
    place, largest = Place(folder, Work()), [0.0]
    real: Callable[..., None] = step_module._update

    def update(state: Any, *arguments: Any, **named: Any) -> None:
        median = float(state.norms.nanmedian())
        real(state, *arguments, **named)
        ratio = float(state.norms[(state.step) % len(state.norms)]) / median
        largest[0] = max(largest[0], ratio if math.isfinite(ratio) else 0.0)

    names = sorted(RECIPES)
    with in_place(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "_update", update)
        for trial in range(seed, seed + count):
            recipe, output = names[trial % len(names)], place.folder / f"run {trial}"
            words = ["train", "--dataset", str(place.images), "--recipe", recipe, "--model", "cct_2_3x2", "--image-size", "8"]
            words += [
                "--embed-dim",
                "16",
                "--batch-size",
                "8",
                "--epochs",
                "4",
                "--warmup-epochs",
                "1",
                "--cooldown-epochs",
                "0",
                "--seed",
                str(trial),
            ]
            words += ["--threads", "1", "--quiet", "-o", str(output)]
            code, errors = quietly(words)
            tally.add(trial, [f"{recipe}: exit code {code}: {errors}"] if code else [])
    tally.note = f"{len(names)} recipes; largest norm {largest[0]:.0f} times its median, of 1,000 allowed"
    return tally
