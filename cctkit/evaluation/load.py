"""Loads a trained model from its weights file."""

from pathlib import Path

from torch import nn

from cctkit.models.build import build_model
from cctkit.models.weights import WeightsInfo, check_tensors, read_weights


def load(path: str | Path) -> tuple[nn.Module, WeightsInfo]:
    """Load the model of a weights file or a run directory, in evaluation mode, and the header of the file.

    Raises: UserError if the file was not written by cctkit, or its tensors do not fit its model.
    """
    tensors, info = read_weights(Path(path))
    check_tensors(tensors, info, Path(path))
    model = build_model(info.model, seed=0)
    model.load_state_dict(tensors)
    return model.eval(), info
