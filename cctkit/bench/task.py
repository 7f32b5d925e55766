"""What is measured: one model, its batch, and the training that its steps belong to."""

from dataclasses import dataclass
from typing import Any

from cctkit.catalog.models import model_config
from cctkit.catalog.recipes import resolve
from cctkit.config.model import ModelConfig
from cctkit.config.settings import TrainConfig
from cctkit.config.size import Size

MODELS = ("cct_2_3x2", "cct_4_3x2", "cct_6_3x2", "cct_6_3x1", "cvt_6_4", "vit_lite_6_4")
_RECIPE = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model of the catalog, with a recipe's regularisation and augmentation. image_size None: as the name says."""

    model: str
    device: str
    batch_size: int = 128
    num_classes: int = 100
    image_size: Size | None = None
    threads: int | None = None
    recipe: str = _RECIPE

    def config(self) -> TrainConfig:
        """The training that a step belongs to.

        Raises: UserError for values out of range.
        """
        flags: dict[str, Any] = {"model": self.model, "batch_size": self.batch_size}
        flags |= {"image_size": self.image_size, "device": self.device, "threads": self.threads}
        return resolve(recipe_name=self.recipe, file_values={}, flags=flags).config

    def architecture(self) -> ModelConfig:
        """The model.

        Raises: UserError for an unknown one, or a size that it cannot take.
        """
        config = self.config()
        return model_config(config.model, num_classes=self.num_classes, image_size=config.data.image_size)
