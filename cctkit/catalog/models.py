"""The models: sizes by depth, the grammar of names, and published names."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cctkit.config.fields import flag_name
from cctkit.config.model import ModelConfig, ModelOptions
from cctkit.config.size import Size, parse_size
from cctkit.errors import UserError
from cctkit.text import did_you_mean, safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Embedding width, heads, and hidden width of the MLP divided by the embedding width."""

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
    """A listed model.

    image_size: side in pixels that it was published for.
    num_classes: number of classes that it was published for.
    alias: published name.
    published_millions: published number of parameters, in millions.
    """

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
        "tct_3_2": ModelRow(),
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
# Ours: see `models/tct.py`. Width, heads and MLP of the transformer blocks, then the other widths.
TCT_WIDTH = Width(embed_dim=96, num_heads=4, mlp_ratio=1.5)
TCT_OTHERS: Mapping[str, int] = MappingProxyType({"num_stem_blocks": 2, "stem_dim": 16, "conv_dim": 64, "attention_dim": 64})
_TCT = re.compile(r"tct_(?P<conv_blocks>\d{1,3})_(?P<layers>\d{1,3})(?:x(?P<repeats>\d{1,3}))?(?:_(?P<classes>c10|c100))?")
_TCT_OPTIONS = ("repeats", *TCT_OTHERS)
_VIT = re.compile(r"vit(?:_(?P<size>[sblh])_(?P<patch>\d{1,3}))?")


def model_config(options: ModelOptions, *, num_classes: int | None = None, image_size: Size | None = None) -> ModelConfig:
    """The architecture that `options` describe.

    num_classes: default: that of the published name (`cct_7_3x1_32_sine_c100`); otherwise 10, for ViTs 1000.
    image_size: (height, width); default: that of the published name; otherwise 32 x 32, for ViTs 224 x 224.

    Raises: UserError for an unknown name or depth, and for an option that the model does not have.
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
    given = dataclasses.asdict(options) | {"num_classes": num_classes, "image_size": image_size}
    return ModelConfig(name=given.pop("model"), **values | {key: value for key, value in given.items() if value is not None})


def family_of(name: str) -> str | None:
    """The family of a model name, published ones included (`vit_7_4_32` is a ViT-Lite); None if it is unknown."""
    for family, grammar in (("vit", _VIT), ("tct", _TCT)):
        if grammar.fullmatch(name):
            return family
    return _family(parts) if (parts := _compact_parts(name)) else None


def named_config(name: str, *, num_classes: int | None = None, image_size: Any = None, **options: Any) -> ModelConfig:
    """`model_config` with options as keyword arguments.

    image_size: side in pixels or (height, width).

    Raises: UserError for an unknown name or option.
    """
    known = ModelOptions.__dataclass_fields__
    for key in options:
        if key not in known:
            remedy = did_you_mean(key, known, f"choose from {', '.join(known)}")
            raise UserError(f"unknown model option '{safe_text(key)}'", "create_model", remedy)
    size = None if image_size is None else parse_size(image_size)
    return model_config(ModelOptions(model=name, **options), num_classes=num_classes, image_size=size)


def _compact_parts(name: str) -> re.Match[str] | None:
    """The parts of a compact transformer's name; only CCTs have a number of convolutions."""
    parts = _COMPACT.fullmatch(name)
    return parts if parts and (parts["family"] == "cct") == (parts["convs"] is not None) else None


def _family(parts: re.Match[str]) -> str:
    return "vit_lite" if parts["family"] == "vit" else parts["family"]


def _compact(parts: re.Match[str], options: ModelOptions) -> dict[str, Any]:
    """The architecture of a compact transformer."""
    layers, kernel = int(parts["layers"]), int(parts["kernel"])
    row = MODELS.get(parts.string[: parts.end("side")], ModelRow())  # without `_sine` and the like
    side = int(parts["side"] or row.image_size)
    values = {
        "family": _family(parts),
        "num_classes": _PUBLISHED_CLASSES.get(parts["classes"] or "", row.num_classes),
        "image_size": (side, side),
        "positional_embedding": parts["positional"] or "learnable",
        "num_layers": layers,
        **_width(parts.string, layers, options),
    }
    if parts["convs"] is None:
        return values | {"patch_size": kernel}
    if options.patch_size is not None:
        raise UserError(f"{safe_text(parts.string)} has no patches: its name sets the convolutions", "--patch-size")
    return values | {"kernel_size": kernel, "num_convs": int(parts["convs"])}


def _tct(parts: re.Match[str], options: ModelOptions) -> dict[str, Any]:
    """The architecture of a tiny compact transformer."""
    if options.patch_size is not None:
        raise UserError(f"{safe_text(parts.string)} has no patches", "--patch-size", "leave it out")
    return {
        "family": "tct",
        "num_classes": _PUBLISHED_CLASSES.get(parts["classes"] or "", 10),
        "positional_embedding": "none",
        "num_conv_blocks": int(parts["conv_blocks"]),
        "num_layers": int(parts["layers"]),
        "repeats": int(parts["repeats"] or 1),
        **TCT_OTHERS,
        **dataclasses.asdict(TCT_WIDTH),
    }


def _vit(parts: re.Match[str], options: ModelOptions) -> dict[str, Any]:
    """The architecture of a ViT; plain `vit` has no sizes of its own."""
    values: dict[str, Any] = {"family": "vit", "num_classes": 1000, "image_size": (224, 224), "mlp_ratio": 4.0}
    if parts["size"]:
        layers, width = VIT_SIZES[parts["size"]]
        return values | {"num_layers": layers, **dataclasses.asdict(width), "patch_size": int(parts["patch"])}
    missing = [key for key in ("num_layers", "embed_dim", "num_heads", "patch_size") if getattr(options, key) is None]
    if missing:
        named = ", ".join(name for name in MODELS if _VIT.fullmatch(name))
        flags = ", ".join(map(flag_name, missing))
        raise UserError(f"the model `vit` needs {flags}", "--model", f"add them, or choose from {named}")
    return values


def _width(name: str, layers: int, options: ModelOptions) -> dict[str, Any]:
    """The sizes for this depth; empty if the options have them all, as a depth outside the table needs.

    Raises: UserError if they do not.
    """
    if layers in WIDTHS:
        return dataclasses.asdict(WIDTHS[layers])
    if layers >= 1 and None not in (options.embed_dim, options.num_heads, options.mlp_ratio):
        return {}
    raise UserError(
        f"'{safe_text(name)}' has {layers} layers, for which no size is published; known: {', '.join(map(str, WIDTHS))}",
        "--model",
        "add --embed-dim, --num-heads and --mlp-ratio, or choose a known depth",
    )


def _unknown(name: str) -> UserError:
    remedy = did_you_mean(name, MODELS, f"choose from {', '.join(MODELS)}")
    return UserError(f"unknown model '{safe_text(name)}'", "--model", remedy)
