"""Checks of a training run's command line before torch is imported, which takes seconds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cctkit.catalog.models import model_config
from cctkit.catalog.recipes import resolve_early
from cctkit.runs.rundir import check_output


def check_early(
    flags: Mapping[str, Any], file_values: Mapping[str, Any], file_name: str, recipe: str | None, output: Path | None
) -> None:
    """Check names, ranges, the model, the run directory and the data set. Each is checked again where it is used.

    Raises: UserError.
    """
    config = resolve_early(recipe_name=recipe, file_values=file_values, file_name=file_name, flags=flags)
    model_config(config.model, image_size=config.data.image_size)
    if output is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":  # a restarted job's own run is there
        check_output(output)
    from cctkit.data.sources.places import check_place

    check_place(config.data)
