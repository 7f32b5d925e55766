"""Reads the `config.json` beside timm weights: the normalization, and whether the model is a plain ViT."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cctkit.catalog.pretrained import Channels
from cctkit.config.model import ModelConfig
from cctkit.errors import UserError
from cctkit.files import read_limited
from cctkit.text import counted, safe_text

# Arguments of timm's VisionTransformer (timm/models/vision_transformer.py) that change what it computes, some without any
# difference in its tensors, and their values in a plain ViT.
_PLAIN_ARGUMENTS: Mapping[str, tuple[object, ...]] = {
    "global_pool": ("token",),
    "act_layer": (None, "gelu"),
    "norm_layer": (None, "layernorm", "layernormfp32"),
    "embed_norm_layer": (None,),
    "fc_norm": (None, False),
    "final_norm": (True,),
    "pre_norm": (False,),
    "class_token": (True,),
    "no_embed_class": (False,),
    "pos_embed": ("learn",),
    "reg_tokens": (0,),
    "init_values": (None,),
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "block_fn": (None,),
    "mlp_layer": (None,),
    "attn_layer": (None,),
}
# timm's names of plain ViTs, and their number of heads (timm/models/vision_transformer.py and deit.py).
_PLAIN_NAME = re.compile(r"(?:vit|deit)_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+(?:\.\w+)?")
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16, "giant": 16, "gigantic": 16}
# Parts of other names, and how such models differ.
_VARIANTS = {
    "quickgelu": "quick GELU",
    "siglip": "GELU by its tanh approximation",
    "clip": "layer norms with epsilon 1e-5",
    "gap": "averaged tokens in place of the class token",
    "rope": "rotary positions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmConfig:
    """What is known about timm weights.

    pixels: mean and std per channel; None if unknown.
    assumed: properties of the model that the configuration does not state.
    """

    pixels: tuple[Channels, Channels] | None
    assumed: tuple[str, ...]


def read_timm_config(weights: Path, config: ModelConfig) -> TimmConfig:
    """Read the configuration beside the file `weights`, as on the Hugging Face hub, for the model of `config`.

    Raises: UserError if the file's model is not a plain ViT, or has another number of heads.
    """
    path = weights.with_name("config.json")
    try:
        told = json.loads(read_limited(path))
    except (OSError, ValueError, RecursionError):
        told = {}
    told = told if isinstance(told, dict) else {}
    found = told.get("model_args")
    arguments = {key: told[key] for key in ("global_pool",) if key in told} | (found if isinstance(found, dict) else {})
    name = str(told.get("architecture"))
    plain = _PLAIN_NAME.fullmatch(name)
    _check_arguments(arguments, "" if plain else name, path)
    heads = arguments.get("num_heads", _HEADS[plain[1]] if plain else None)
    if heads is not None and heads != config.num_heads:
        raise UserError(
            f"the model of the weights has {safe_text(heads)} attention heads, {safe_text(config.name)} has {config.num_heads}",
            safe_text(path),
            f"another --model, or train it with --num-heads {safe_text(heads)}",
        )
    return TimmConfig(
        pixels=_pixels(told.get("pretrained_cfg")), assumed=_assumed(arguments, heads, config, is_plain=bool(plain))
    )


def _check_arguments(arguments: Mapping[str, Any], name: str, path: Path) -> None:
    """Raises: UserError if the arguments, or the name of a variant, are not those of a plain ViT."""
    wrong = [
        f"its {key} is {safe_text(repr(arguments[key]), 40)}, expected {plain[-1]!r}"
        for key, plain in _PLAIN_ARGUMENTS.items()
        if key in arguments and arguments[key] not in plain
    ]
    wrong += [f"{safe_text(name, 60)} has {meaning}" for word, meaning in _VARIANTS.items() if word in name]
    if wrong:
        raise UserError(
            f"this is not a plain ViT: {wrong[0]}",
            safe_text(path),
            "use weights of a plain ViT, such as timm's vit_base_patch16_224",
        )


def _assumed(arguments: Mapping[str, Any], heads: int | None, config: ModelConfig, *, is_plain: bool) -> tuple[str, ...]:
    facts = {
        "the class token is classified": is_plain or "global_pool" in arguments,
        "exact GELU": is_plain or "act_layer" in arguments,
        "layer norms with epsilon 1e-6": is_plain or "norm_layer" in arguments,
        counted(config.num_heads, "attention head"): heads is not None,
    }
    return tuple(fact for fact, is_told in facts.items() if not is_told)


def _pixels(told: Any) -> tuple[Channels, Channels] | None:
    """Mean and standard deviation in a `pretrained_cfg`; None if it has none."""
    try:
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (told["mean"], told["std"]))
    except (ValueError, OverflowError, KeyError, TypeError):
        return None
    return (mean, std) if min(std) > 0 else None
