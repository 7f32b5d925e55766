"""How deep a weight lies in its model, for layer-wise learning rates and for freezing."""

import re

from cctkit.config import ModelConfig
from cctkit.models.convert import HEAD

_BLOCK = re.compile(r"(?:classifier\.blocks\.|encoder\.layers\.encoder_layer_)(\d+)\.")
_EMBEDDING = re.compile(r"tokenizer\.|conv_proj\.|.*\b(?:positional_emb|class_emb|pos_embedding|class_token)$")


def is_head(name: str) -> bool:
    """Whether the weight is of the last layer, whose outputs are the logits."""
    return name.rpartition(".")[0] in HEAD.values()


def depth_of(name: str, config: ModelConfig) -> int:
    """0 for tokenizer, positions and class token, i + 1 for block i, num_layers + 1 for norm, pooling and head."""
    if block := _BLOCK.match(name):
        return int(block[1]) + 1
    return 0 if _EMBEDDING.match(name) else config.num_layers + 1
