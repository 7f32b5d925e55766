"""Suggest image size, model and recipe for a data set, with the duration of the run from a few timed steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cctkit.bench.measure import QUICK, TimedSide
from cctkit.bench.task import Task
from cctkit.bench.training import TaskTraining, policy_of
from cctkit.catalog.recipes import default_recipe
from cctkit.config.model import ModelOptions
from cctkit.config.size import Size

LONGEST_S = 3600
"""Longest run to suggest, in seconds, if a smaller image size is faster."""
FEWEST_STEPS = 200
"""Fewest training steps to suggest: with few images more epochs than the recipe has (docs/measurements.md, Few images)."""
_SIZES = {"cpu": (96, 64, 32), "cuda": (224, 128, 96, 64, 32)}
_MODELS_ON_GPU = {224: "cct_7_7x2_224", 32: "cct_6_3x1"}
_OTHERS_ON_GPU = "cct_6_3x2"
_BATCH_SIZE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A model at an image size, and how long training it takes on this machine.

    image_size: (height, width).
    images_per_s: measured speed of training, with its data.
    seconds: predicted duration of the run, with the evaluation at its end.
    """

    image_size: Size
    model: str
    recipe: str
    epochs: int
    device: str
    images_per_s: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """See docs/reference/files.md."""
        return asdict(self) | {"image_size": list(self.image_size)}

    @property
    def flags(self) -> str:
        """What to add to `cctkit train`."""
        height, width = self.image_size
        size = str(height) if height == width else f"{height}x{width}"
        return f"--image-size {size} --model {self.model} --recipe {self.recipe} --epochs {self.epochs}"


def sizes_for(median_side: int, device: str) -> list[Size]:
    """Image sizes to consider, largest first: those that images whose shorter side is `median_side` can fill, and 32."""
    known = _SIZES.get(device, _SIZES["cpu"])
    return [(side, side) for side in known if side <= max(median_side, known[-1])]


def suggest_training(
    sizes: Callable[[str], Sequence[Size]], *, name: str, num_classes: int, num_train: int, num_test: int, device: str = "auto"
) -> list[Suggestion]:
    """What was timed, the suggestion last: the first size whose run takes at most an hour, or else the last one.

    sizes: called with the device; the sizes to consider, in order.
    name: of the data set, by which the default recipe is chosen.
    """
    device = policy_of(Task(model=ModelOptions().model, device=device)).device
    found: list[Suggestion] = []
    for size in sizes(device):
        task = Task(
            model=_model(device, size),
            device=device,
            batch_size=max(2, min(_BATCH_SIZE, num_train)),
            num_classes=num_classes,
            image_size=size,
            recipe=default_recipe(name, device),
        )
        found.append(_timed(task, num_train, num_test))
        if found[-1].seconds <= LONGEST_S:
            break
    return found


def _model(device: str, size: Size) -> str:
    return ModelOptions().model if device == "cpu" else _MODELS_ON_GPU.get(min(size), _OTHERS_ON_GPU)


def _timed(task: Task, num_train: int, num_test: int) -> Suggestion:
    """Time a few steps of training with its data, and a few batches of inference."""
    timed, config = TimedSide(lambda: TaskTraining(task), task), task.config()
    epochs = max(config.epochs, math.ceil(FEWEST_STEPS / math.ceil(num_train / config.batch_size)))
    timed.images_per_s("epoch", QUICK.warm_s)
    training, inference = timed.images_per_s("epoch", QUICK.turn_s), timed.images_per_s("inference", QUICK.turn_s)
    return Suggestion(
        image_size=(task.image_size or (0, 0)),
        model=task.model,
        recipe=task.recipe,
        epochs=epochs,
        device=task.device,
        images_per_s=training,
        seconds=num_train * epochs / training + num_test / inference,
    )
