"""What the user asks of a training run, before the data set and the device are known."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cctkit.catalog.models import model_config
from cctkit.catalog.pretrained import check_pretrained, is_pretrained
from cctkit.catalog.recipes import Resolved, possible_settings
from cctkit.config.settings import TrainConfig
from cctkit.errors import UserError
from cctkit.training.budget import Budget, without_epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Settings from the command line and a config file, the recipe, and where the run goes.

    recipe: None: the default one, which depends on the data set and the device.
    time: how long the run may take from now on, such as `30m`, in place of the epochs.
    budget: the same, begun now.
    by_recipe: the settings with each recipe that the run may get, or why they contradict it.

    Raises: UserError if a name is unknown, a value is out of range, or the settings contradict every possible recipe.
    """

    flags: Mapping[str, Any]
    file_values: Mapping[str, Any]
    file_name: str = ""
    recipe: str | None = None
    output: Path | None = None
    time: str | None = None
    budget: Budget | None = field(init=False)
    by_recipe: Mapping[str, Resolved | UserError] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", None if self.time is None else Budget.begin(self.time))
        flags = self.flags if self.time is None else without_epochs(self.flags)
        settings = possible_settings(
            recipe_name=self.recipe, file_values=self.file_values, file_name=self.file_name, flags=flags
        )
        object.__setattr__(self, "by_recipe", settings)
        check_tracker(self.early.track)
        init, model = self.early.init, self.early.model
        if is_pretrained(init):
            check_pretrained(init, model_config(model))

    @property
    def early(self) -> TrainConfig:
        """The settings with the first recipe that they fit: what does not depend on the recipe is final."""
        return next(each.config for each in self.by_recipe.values() if isinstance(each, Resolved))

    def resolve(self, recipe: str) -> Resolved:
        """The settings with `recipe`, the one that was asked for or the default one.

        Raises: UserError if they contradict it.
        """
        found = self.by_recipe[recipe]
        if isinstance(found, UserError):
            raise found
        return found


def check_tracker(name: str) -> None:
    """Check that the package of a tracker is installed, without importing it.

    Raises: UserError.
    """
    found = None if name == "none" else importlib.util.find_spec(name)
    if name != "none" and (found is None or found.origin is None):  # without origin: a folder of that name
        raise UserError(f"{name} is not installed", "--track", f"pip install {name}, or: pip install 'cctkit[{name}]'")
