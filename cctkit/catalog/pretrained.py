"""Pretrained weights that `--init NAME` downloads, and their normalisation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard

from cctkit.catalog.models import named_config
from cctkit.config.model import ModelConfig
from cctkit.errors import UserError
from cctkit.text import safe_text

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedRow:
    """A file of pretrained weights.

    sha256: its first eight digits, which are in the names of torchvision's files.
    megabytes: rounded, of 10^6 bytes.
    top1_percent: on ImageNet-1k.
    """

    url: str
    sha256: str
    megabytes: int
    top1_percent: float
    image_size: int = 224

    @property
    def max_bytes(self) -> int:
        """Upper limit of the size; the published file is not larger."""
        return (self.megabytes + 1) * 10**6


def _row(name: str, sha256: str, megabytes: int, top1_percent: float) -> PretrainedRow:
    url = f"https://download.pytorch.org/models/{name}-{sha256}.pth"
    return PretrainedRow(url=url, sha256=sha256, megabytes=megabytes, top1_percent=top1_percent)


# torchvision, models/vision_transformer.py: IMAGENET1K_V1, and IMAGENET1K_SWAG_LINEAR_V1 of vit_h_14.
PRETRAINED: Mapping[str, PretrainedRow] = MappingProxyType(
    {
        "vit_b_16": _row("vit_b_16", "c867db91", 346, 81.072),
        "vit_b_32": _row("vit_b_32", "d86f8d99", 353, 75.912),
        "vit_l_16": _row("vit_l_16", "852ce7e3", 1217, 79.662),
        "vit_l_32": _row("vit_l_32", "c7638314", 1226, 76.972),
        "vit_h_14": _row("vit_h_14_lc_swag", "c1eb923e", 2528, 85.708),
    }
)

_SHAPE = ("family", "num_layers", "embed_dim", "num_heads", "mlp_ratio", "patch_size")


def is_pretrained(source: str | None) -> TypeGuard[str]:
    """Whether `--init` names pretrained weights. A file of that name has precedence."""
    return source in PRETRAINED and not Path(str(source)).exists()


def check_pretrained(name: str, config: ModelConfig) -> None:
    """Check that the weights `name` fit the model, before they are downloaded.

    Raises: UserError if they do not.
    """
    theirs = named_config(name)
    if any(getattr(theirs, key) != getattr(config, key) for key in _SHAPE):
        raise UserError(f"the weights {name} do not fit the model {safe_text(config.name)}", "--init", f"add --model {name}")
