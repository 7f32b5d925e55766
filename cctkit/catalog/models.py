"""The models: sizes by depth, the name grammar, and the published names as aliases."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cctkit.config.fields import flag_name
from cctkit.config.settings import ModelConfig, ModelOptions
from cctkit.config.size import Size, parse_size
from cctkit.errors import UserError
from cctkit.text import nearest, safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Width D, heads, and width of the MLP over D."""

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

# Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", table 1; S: Steiner et al. 2022, "How to train your ViT?", table 2.
VIT_SIZES: Mapping[str, tuple[int, Width]] = MappingProxyType(
    {
        "s": (12, Width(embed_dim=384, num_heads=6, mlp_ratio=4)),
        "b": (12, Width(embed_dim=768, num_heads=12, mlp_ratio=4)),
        "l": (24, Width(embed_dim=1024, num_heads=16, mlp_ratio=4)),
        "h": (32, Width(embed_dim=1280, num_heads=16, mlp_ratio=4)),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A model that the commands list: the image side and classes it was published for, its published name and size."""

    image_size: int = 32
    num_classes: int = 10
    alias: str | None = None
    published_millions: float | None = None


# Sizes as published: SHI-Labs/Compact-Transformers, examples/README.md and README.md (cct_6_3x1's without its embedding);
# of the ViTs the report's: table 1 (Dosovitskiy et al. 2021), and its score table for vit_s_16.
MODELS: Mapping[str, ModelRow] = MappingProxyType(
    {
        "cct_2_3x2": ModelRow(alias="cct_2_3x2_32", published_millions=0.284),
        "cct_4_3x2": ModelRow(alias="cct_4_3x2_32", published_millions=0.482),
        "cct_6_3x1": ModelRow(alias="cct_6_3x1_32", published_millions=3.168),
        "cct_6_3x2": ModelRow(alias="cct_6_3x2_32", published_millions=3.327),
        "cct_7_3x1": ModelRow(alias="cct_7_3x1_32", published_millions=3.76),
        "cct_7_3x2": ModelRow(alias="cct_7_3x2_32", published_millions=3.853),
        "cvt_6_4": ModelRow(alias="cvt_6_4_32", published_millions=3.19),
        "cvt_7_4": ModelRow(alias="cvt_7_4_32", published_millions=3.717),
        "vit_lite_6_4": ModelRow(alias="vit_6_4_32", published_millions=3.191),
        "vit_lite_7_4": ModelRow(alias="vit_7_4_32", published_millions=3.717),
        "cct_7_7x2_224": ModelRow(image_size=224, num_classes=102),
        "cct_14_7x2_224": ModelRow(image_size=224, num_classes=1000, published_millions=22.36),
        "cct_14_7x2_384": ModelRow(image_size=384, num_classes=1000, published_millions=22.51),
        "tct_2_2x2": ModelRow(),
        "vit_s_16": ModelRow(image_size=224, num_classes=1000, published_millions=22.2),
        "vit_b_16": ModelRow(image_size=224, num_classes=1000, published_millions=86),
        "vit_b_32": ModelRow(image_size=224, num_classes=1000, published_millions=86),
        "vit_l_16": ModelRow(image_size=224, num_classes=1000, published_millions=307),
        "vit_l_32": ModelRow(image_size=224, num_classes=1000, published_millions=307),
        "vit_h_14": ModelRow(image_size=224, num_classes=1000, published_millions=632),
    }
)

_PUBLISHED_CLASSES = MappingProxyType({"c10": 10, "c100": 100, "fl": 102})
_COMPACT = re.compile(
    r"(?P<family>cct|cvt|vit_lite|vit)_(?P<layers>\d{1,3})_(?P<kernel>\d{1,3})(?:x(?P<convs>\d))?"
    r"(?:_(?P<side>32|64|224|384))?(?:_(?P<positional>learnable|sine|none))?(?:_(?P<classes>c10|c100|fl))?"
)
# Ours: see `models/tied.py`. Width, heads and MLP of the transformer blocks, then of the convolutional blocks and the heads.
TCT_WIDTH = Width(embed_dim=96, num_heads=4, mlp_ratio=4 / 3)
TCT_CONV_DIM, TCT_ATTENTION_DIM = 48, 64
_TCT = re.compile(r"tct_(?P<conv_blocks>\d{1,3})_(?P<layers>\d{1,3})x(?P<repeats>\d{1,3})(?:_(?P<classes>c10|c100))?")
_TCT_OPTIONS = ("repeats", "conv_dim", "attention_dim")
_VIT = re.compile(r"vit(?:_(?P<size>[sblh])_(?P<patch>\d{1,3}))?")


def model_config(options: ModelOptions, *, num_classes: int | None = None, image_size: Size | None = None) -> ModelConfig:
    """The architecture that `options` name, for this many classes and images of (height, width).

    A published name (`cct_7_3x1_32_sine_c100`) sets the image size and the classes where they are not given; otherwise
    they are 32 x 32 (or the name's side) and 10, for the ViTs 224 x 224 and 1000.

    Raises: UserError for a name that the grammar or the table of sizes does not know, naming the nearest ones, and for an
    option that the model cannot follow.
    """
    if parts := _TCT.fullmatch(options.model):
        values = _tct(parts, options)
    elif flag := next((flag_name(key) for key in _TCT_OPTIONS if getattr(options, key) is not None), None):
        raise UserError(f"{safe_text(options.model)} has no {flag}, which TCT models have", flag, f"leave out {flag}")
    elif parts := _VIT.fullmatch(options.model):
        values = _vit(parts, options)
    elif parts := _compact_parts(options.model):
        values = _compact(parts, options)
    else:
        raise _unknown(options.model)
    given = {"num_classes": num_classes, "image_size": image_size, "positional_embedding": options.positional_embedding}
    return ModelConfig(
        name=options.model,
        dropout=options.dropout,
        attention_dropout=options.attention_dropout,
        drop_path=options.drop_path,
        **values | {key: value for key, value in given.items() if value is not None},
    )


def family_of(name: str) -> str | None:
    """The family of a model name, also of a published one (`vit_7_4_32` is a ViT-Lite); None if there is no such model."""
    for family, grammar in (("vit", _VIT), ("tct", _TCT)):
        if grammar.fullmatch(name):
            return family
    return _family(parts) if (parts := _compact_parts(name)) else None


def named_config(name: str, *, num_classes: int | None = None, image_size: Any = None, **options: Any) -> ModelConfig:
    """`model_config` from loose arguments; `image_size` is a side in pixels or (height, width).

    Raises: UserError for an unknown name or option, naming the nearest ones.
    """
    known = ModelOptions.__dataclass_fields__
    for key in options:
        if key not in known:
            hint = nearest(key, known)
            raise UserError(
                f"unknown model option '{safe_text(key)}'",
                "create_model",
                f"did you mean {' or '.join(hint)}?" if hint else f"options are: {', '.join(known)}",
            )
    size = None if image_size is None else parse_size(image_size)
    return model_config(ModelOptions(model=name, **options), num_classes=num_classes, image_size=size)


def _compact_parts(name: str) -> re.Match[str] | None:
    """A compact transformer's name in its parts: CCT's alone counts convolutions."""
    parts = _COMPACT.fullmatch(name)
    return parts if parts and (parts["family"] == "cct") == (parts["convs"] is not None) else None


def _family(parts: re.Match[str]) -> str:
    return "vit_lite" if parts["family"] == "vit" else parts["family"]


def _compact(parts: re.Match[str], options: ModelOptions) -> dict[str, Any]:
    """A compact transformer's values by its name's parts."""
    layers, kernel = int(parts["layers"]), int(parts["kernel"])
    width = _width(parts.string, layers, options)
    row = MODELS.get(parts.string[: parts.end("side")], ModelRow())  # without `_sine` and the like
    side = int(parts["side"] or row.image_size)
    values = {
        "family": _family(parts),
        "num_classes": _PUBLISHED_CLASSES.get(parts["classes"] or "", row.num_classes),
        "image_size": (side, side),
        "positional_embedding": parts["positional"] or "learnable",
        "num_layers": options.num_layers or layers,
        "embed_dim": options.embed_dim or width.embed_dim,
        "num_heads": options.num_heads or width.num_heads,
        "mlp_ratio": options.mlp_ratio or width.mlp_ratio,
    }
    if parts["convs"] is None:
        return values | {"patch_size": options.patch_size or kernel}
    if options.patch_size is not None:
        raise UserError(f"{safe_text(parts.string)} cuts no patches: its name sets the convolutions", "--patch-size")
    return values | {"kernel_size": kernel, "num_convs": int(parts["convs"])}


def _tct(parts: re.Match[str], options: ModelOptions) -> dict[str, Any]:
    """A tied compact transformer's values by its name's parts."""
    if options.patch_size is not None:
        raise UserError(f"{safe_text(parts.string)} cuts no patches", "--patch-size", "leave it out")
    return {
        "family": "tct",
        "num_classes": _PUBLISHED_CLASSES.get(parts["classes"] or "", 10),
        "positional_embedding": "none",
        "num_conv_blocks": int(parts["conv_blocks"]),
        "num_layers": options.num_layers or int(parts["layers"]),
        "repeats": options.repeats or int(parts["repeats"]),
        "conv_dim": options.conv_dim or TCT_CONV_DIM,
        "embed_dim": options.embed_dim or TCT_WIDTH.embed_dim,
        "num_heads": options.num_heads or TCT_WIDTH.num_heads,
        "attention_dim": options.attention_dim or TCT_ATTENTION_DIM,
        "mlp_ratio": options.mlp_ratio or TCT_WIDTH.mlp_ratio,
    }


def _vit(parts: re.Match[str], options: ModelOptions) -> dict[str, Any]:
    """A ViT's values by its name's parts; of plain `vit` every size is the user's."""
    fields = ("num_layers", "embed_dim", "num_heads", "patch_size")
    given = {key: getattr(options, key) for key in (*fields, "mlp_ratio") if getattr(options, key) is not None}
    values: dict[str, Any] = {"family": "vit", "num_classes": 1000, "image_size": (224, 224), "mlp_ratio": 4.0}
    if parts["size"]:
        layers, width = VIT_SIZES[parts["size"]]
        values |= {"num_layers": layers, "embed_dim": width.embed_dim, "num_heads": width.num_heads}
        values |= {"patch_size": int(parts["patch"])}
    elif missing := [flag_name(key) for key in fields if key not in given]:
        raise UserError(f"the model `vit` has no sizes of its own: {', '.join(missing)} not given", "--model", _unknown_vit())
    return values | given


def _unknown_vit() -> str:
    return "give them, or take one of " + ", ".join(name for name in MODELS if _VIT.fullmatch(name))


def _width(name: str, layers: int, options: ModelOptions) -> Width:
    """The sizes of this depth; a depth outside of the table needs all three given."""
    given = (options.embed_dim, options.num_heads, options.mlp_ratio)
    if layers in WIDTHS:
        return WIDTHS[layers]
    if layers >= 1 and None not in given:
        return Width(embed_dim=given[0] or 0, num_heads=given[1] or 0, mlp_ratio=given[2] or 0)
    raise UserError(
        f"no published size has {layers} layers, as '{safe_text(name)}' asks; known: {', '.join(map(str, WIDTHS))}",
        "--model",
        "give --embed-dim, --num-heads and --mlp-ratio, or take a known depth",
    )


def _unknown(name: str) -> UserError:
    hint = nearest(name, MODELS)
    return UserError(
        f"unknown model '{safe_text(name)}'",
        "--model",
        f"did you mean {' or '.join(hint)}?" if hint else f"known models: {', '.join(MODELS)}",
    )
