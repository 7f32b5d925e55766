"""The depth of a parameter in its model, for layer-wise learning-rate decay and freezing."""

import re

from torch import nn

from cctkit.config.model import ModelConfig
from cctkit.models.convert import HEAD
from cctkit.models.dropout import Dropout, DropPath

_BLOCK = re.compile(r"(?:classifier\.blocks\.|encoder\.layers\.encoder_layer_)(\d+)\.")
_CONV_BLOCK = re.compile(r"tokenizer\.blocks\.")
_LAST_NORM = re.compile(r"(?:classifier\.norm|encoder\.ln)\.")
_STEM = re.compile(r"(?:tokenizer|conv_proj)\.")
_EMBEDDINGS = {"positional_emb", "class_emb", "pos_embedding", "class_token"}


def is_head(name: str) -> bool:
    """Whether the parameter belongs to the head, which `--init` initializes anew for other classes."""
    return name.rpartition(".")[0] in HEAD.values()


def is_embedding(name: str) -> bool:
    """Whether the weight is a position or class embedding, of our models or torchvision's."""
    return name.rpartition(".")[2] in _EMBEDDINGS


def depth_of(name: str, config: ModelConfig) -> int:
    """0 for tokenizer, positions and class token, i + 1 for block i, num_layers + 1 for sequence pooling and head.

    The last norm belongs to the last block, as in timm (`vision_transformer.py`, `group_matcher`); in BEiT to the head.
    """
    if block := _BLOCK.match(name):
        return int(block[1]) + 1
    if _LAST_NORM.match(name):
        return config.num_layers
    return 0 if _STEM.match(name) or is_embedding(name) else config.num_layers + 1


def is_in_block(name: str) -> bool:
    """Whether the weight belongs to a transformer block, or to a convolutional block of TCT's tokenizer."""
    return bool(_BLOCK.match(name) or _CONV_BLOCK.match(name))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks in order; empty for a model that is not ours."""
    return [module for name, module in model.named_modules() if _BLOCK.fullmatch(f"{name}.")]


def freeze_backbone(model: nn.Module) -> None:
    """Train only the head, the last linear layer. Norms, sequence pooling and class token belong to the backbone.

    Dropout and drop path of the backbone are switched off: they would only add noise to features that do not train.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(is_head(name))
    for module in model.modules():
        if isinstance(module, (Dropout, DropPath)):
            module.p = 0.0
