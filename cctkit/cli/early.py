"""Checks the options of `cctkit train` before torch is imported, which takes seconds."""

import os

from cctkit.catalog.models import model_config
from cctkit.runs.rundir import check_output
from cctkit.training.request import Request


def check_early(request: Request) -> None:
    """Check model, run directory and data set, which are checked again when they are used.

    Raises: UserError.
    """
    config, output = request.early, request.output
    model_config(config.model, image_size=config.data.image_size)
    is_restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # such a job finds its own run in `output`
    if output is not None and not is_restarted:
        check_output(output)
    from cctkit.data.sources.places import check_place

    check_place(config.data)
