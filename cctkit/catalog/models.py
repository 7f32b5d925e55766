"""The models: sizes by depth, the name grammar, and the published names as aliases."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cctkit.config import ModelConfig, ModelOptions, Size, parse_size
from cctkit.errors import UserError
from cctkit.text import nearest, safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """What the papers fix by the number of layers."""

    embed_dim: int
    num_heads: int
    mlp_ratio: float


# Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers", table of variants (appendix).
WIDTHS: Mapping[int, Width] = MappingProxyType(
    {
        2: Width(embed_dim=128, num_heads=2, mlp_ratio=1),
        4: Width(embed_dim=128, num_heads=2, mlp_ratio=1),
        6: Width(embed_dim=256, num_heads=4, mlp_ratio=2),
        7: Width(embed_dim=256, num_heads=4, mlp_ratio=2),
        8: Width(embed_dim=256, num_heads=4, mlp_ratio=2),
        14: Width(embed_dim=384, num_heads=6, mlp_ratio=3),
    }
)

# The catalog: every model that the commands list, and the image side it was published for.
MODELS: Mapping[str, int] = MappingProxyType(
    {
        "cct_2_3x2": 32,
        "cct_4_3x2": 32,
        "cct_6_3x1": 32,
        "cct_6_3x2": 32,
        "cct_7_3x1": 32,
        "cct_7_3x2": 32,
        "cvt_6_4": 32,
        "cvt_7_4": 32,
        "vit_lite_6_4": 32,
        "vit_lite_7_4": 32,
        "cct_7_7x2_224": 224,
        "cct_14_7x2_224": 224,
        "cct_14_7x2_384": 384,
    }
)

_PUBLISHED_CLASSES = MappingProxyType({"c10": 10, "c100": 100, "fl": 102})
_NAME = re.compile(
    r"(?P<family>cct|cvt|vit_lite|vit)_(?P<layers>\d{1,3})_(?P<kernel>\d{1,3})(?:x(?P<convs>\d))?"
    r"(?:_(?P<side>32|64|224|384))?(?:_(?P<positional>learnable|sine|none))?(?:_(?P<classes>c10|c100|fl))?"
)


def model_config(options: ModelOptions, *, num_classes: int | None = None, image_size: Size | None = None) -> ModelConfig:
    """The architecture that `options` name, for this many classes and images of (height, width).

    A published name (`cct_7_3x1_32_sine_c100`) sets the image size and the classes where they are not given; otherwise
    they are 32 x 32 (or the name's side) and 10.

    Raises: UserError for a name that the grammar or the table of sizes does not know, naming the nearest ones.
    """
    name = options.model
    parts = _NAME.fullmatch(name)
    if parts is None or (parts["family"] == "cct") != (parts["convs"] is not None):
        raise _unknown(name)
    layers, kernel = int(parts["layers"]), int(parts["kernel"])
    family = "vit_lite" if parts["family"] == "vit" else parts["family"]
    width = _width(name, layers, options)
    side = int(parts["side"]) if parts["side"] else MODELS.get(name, 32)
    values: dict[str, Any] = {
        "name": name,
        "family": family,
        "num_classes": num_classes or _PUBLISHED_CLASSES.get(parts["classes"] or "", 10),
        "image_size": image_size or (side, side),
        "num_layers": options.num_layers or layers,
        "embed_dim": options.embed_dim or width.embed_dim,
        "num_heads": options.num_heads or width.num_heads,
        "mlp_ratio": options.mlp_ratio or width.mlp_ratio,
        "positional_embedding": options.positional_embedding or parts["positional"] or "learnable",
        "dropout": options.dropout,
        "attention_dropout": options.attention_dropout,
        "drop_path": options.drop_path,
    }
    if family == "cct":
        values |= {"kernel_size": kernel, "num_convs": int(parts["convs"])}
    else:
        values |= {"patch_size": kernel}
    return ModelConfig(**values)


def named_config(name: str, *, num_classes: int | None = None, image_size: Any = None, **options: Any) -> ModelConfig:
    """`model_config` from loose arguments; `image_size` is a side in pixels or (height, width).

    Raises: UserError for an unknown name or option, naming the nearest ones.
    """
    known = ModelOptions.__dataclass_fields__
    for key in options:
        if key not in known:
            hint = nearest(key, known)
            raise UserError(
                f"unknown model option {safe_text(key)!r}",
                "create_model",
                f"did you mean {' or '.join(hint)}?" if hint else f"options are: {', '.join(known)}",
            )
    size = None if image_size is None else parse_size(image_size)
    return model_config(ModelOptions(model=name, **options), num_classes=num_classes, image_size=size)


def _width(name: str, layers: int, options: ModelOptions) -> Width:
    """The sizes of this depth; a depth outside of the table needs all three given."""
    given = (options.embed_dim, options.num_heads, options.mlp_ratio)
    if layers in WIDTHS:
        return WIDTHS[layers]
    if layers >= 1 and None not in given:
        return Width(embed_dim=given[0] or 0, num_heads=given[1] or 0, mlp_ratio=given[2] or 0)
    raise UserError(
        f"no published size has {layers} layers, as {safe_text(name)!r} asks; known: {', '.join(map(str, WIDTHS))}",
        "--model",
        "give --embed-dim, --num-heads and --mlp-ratio, or take a known depth",
    )


def _unknown(name: str) -> UserError:
    hint = nearest(name, MODELS)
    return UserError(
        f"unknown model {safe_text(name)!r}",
        "--model",
        f"did you mean {' or '.join(hint)}?" if hint else f"known models: {', '.join(MODELS)}",
    )
