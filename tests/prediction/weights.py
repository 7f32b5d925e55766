"""Weights files of untrained models, in no time."""

from pathlib import Path

from cctkit.catalog.models import named_config
from cctkit.models.build import build_model
from cctkit.models.weights import WeightsInfo, save_weights


def info_of(name: str, *, classes: tuple[str, ...] = ("dark", "light"), size: int = 32) -> WeightsInfo:
    """The header of a weights file for images of `size` x `size`."""
    return WeightsInfo(
        model=named_config(name, num_classes=len(classes), image_size=(size, size)),
        class_names=classes,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        resize_mode="crop",
        dataset={"name": "none", "named": False, "fingerprint": "", "split_seed": 0, "val_fraction": 0.0},
        recipe=None,
        metrics={},
    )


def write_weights(path: Path, info: WeightsInfo) -> Path:
    """A weights file with the initial weights of the model in `info`."""
    save_weights(path, tensors=build_model(info.model, seed=0).state_dict(), info=info)
    return path
