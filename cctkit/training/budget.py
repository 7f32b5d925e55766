"""How many epochs fit into a time budget: `--time`."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cctkit.catalog.recipes import Resolved, recipe
from cctkit.config.duration import duration_text, parse_duration, round_up_duration
from cctkit.errors import UserError

_AIM = 0.97
"""The fraction of a budget that is planned, since a run may get slower than it was measured."""
_LEAST = 0.8
"""A run shorter than this fraction of the budget gets one more epoch, if it fits without the reserve."""
_UNKNOWN_EPOCHS = 10**6
"""The number of epochs while it is not known, so large that every warm-up fits into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The time that a run may take, in seconds, from `began` on, which `clock` has returned.

    text: as the user wrote it.
    """

    text: str
    seconds: float
    began: float
    clock: Callable[[], float] = time.perf_counter

    @classmethod
    def begin(cls, text: str) -> "Budget":
        """A budget that begins now.

        Raises: UserError if `text` is no duration.
        """
        return cls(text=str(text), seconds=parse_duration(text, "--time"), began=time.perf_counter())

    @property
    def spent_s(self) -> float:
        return self.clock() - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a run takes, in seconds.

    start_s: from now to the first epoch.
    epoch_s: an epoch, with its data, evaluation and saving.
    end_s: after the last epoch.
    """

    start_s: float
    epoch_s: float
    end_s: float

    def run_s(self, epochs: int) -> float:
        """The whole run."""
        return self.start_s + epochs * self.epoch_s + self.end_s


def fitting_epochs(budget: Budget, spent_s: float, costs: Costs) -> int:
    """The largest number of epochs that is expected to end within 97% of the budget.

    If that is less than 80% of the budget, or no epoch, one more may take all of it.

    Raises: UserError if not even one epoch fits.
    """
    epochs = max(0, math.floor((_AIM * budget.seconds - spent_s - costs.run_s(0)) / costs.epoch_s))
    is_short = epochs == 0 or spent_s + costs.run_s(epochs) < _LEAST * budget.seconds
    if is_short and spent_s + costs.run_s(epochs + 1) <= budget.seconds:
        return epochs + 1
    if epochs:
        return epochs
    one_s = spent_s + costs.run_s(1)
    enough = duration_text(round_up_duration(1.1 * one_s))
    raise UserError(
        f"{budget.text} is too short: a run of one epoch takes about {duration_text(one_s)} on this machine",
        "--time",
        f"--time {enough}, a smaller --model or --image-size, or fewer images",
    )


def without_epochs(flags: Any) -> dict[str, Any]:
    """The flags of a run with a time budget, with an epoch number that fits every other setting until it is known.

    Raises: UserError if they have a number of epochs.
    """
    if "epochs" in flags:
        raise UserError("--time and --epochs cannot be combined", "command line", "give one of them")
    return {**flags, "epochs": _UNKNOWN_EPOCHS}


def with_epochs(resolved: Resolved, epochs: int, *, budget: Budget, recipe_name: str, epoch_s: float) -> Resolved:
    """The settings with this number of epochs. Shorter than the recipe, they have its warm-up and cool-down in proportion.

    Only where the recipe gives them in epochs: those that the user gives are kept.

    Raises: UserError if they do not fit.
    """
    config, origins = resolved.config, dict(resolved.origins)
    origins["epochs"] = f"--time {budget.text}, with about {duration_text(epoch_s)} per epoch"
    changes: dict[str, Any] = {"epochs": epochs}
    planned = recipe(recipe_name).settings(config.model.model).get("epochs", (epochs, ""))[0]
    for key in ("warmup_epochs", "cooldown_epochs"):
        value = getattr(config, key)
        if value and epochs < planned and origins[key].startswith("recipe "):
            changes[key] = value * epochs / planned
            origins[key] += f", {value:g} of {planned} epochs"
    try:
        return Resolved(config=config.replace(**changes), origins=origins)
    except UserError as error:
        raise UserError(error.what, error.where, "shorten them, or give more --time") from error
