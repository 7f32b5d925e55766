"""Checks of a training run's command line before torch is imported, which takes seconds."""

import os

from cctkit.catalog.models import model_config
from cctkit.runs.rundir import check_output
from cctkit.training.request import Request


def check_early(request: Request) -> None:
    """Check the model, the run directory and the data set. Each is checked again where it is used.

    Raises: UserError.
    """
    config, output = request.early, request.output
    model_config(config.model, image_size=config.data.image_size)
    if output is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":  # a restarted job's own run is there
        check_output(output)
    from cctkit.data.sources.places import check_place

    check_place(config.data)
