"""Converts weights of other layouts, image sizes and numbers of classes to a model of ours."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cctkit.catalog.counts import grid_size, has_class_token
from cctkit.config.model import ModelConfig
from cctkit.config.size import Size
from cctkit.errors import UserError
from cctkit.models.classifier import sinusoidal_embedding
from cctkit.text import safe_text

Layout = Literal["compact", "torchvision", "timm"]
"""The names of the tensors: of compact transformers (ours and published), torchvision's ViT or timm's ViT."""

PositionMode = Literal["bilinear", "bicubic"]

_MARKS: Mapping[str, Layout] = {
    "tokenizer.conv_layers.0.0.weight": "compact",
    "tokenizer.stem.weight": "compact",  # TCT
    "conv_proj.weight": "torchvision",
    "patch_embed.proj.weight": "timm",
}
HEAD: Mapping[Layout, str] = {"compact": "classifier.fc", "torchvision": "heads.head", "timm": "head"}
POSITIONS: Mapping[Layout, str] = {
    "compact": "classifier.positional_emb",
    "torchvision": "encoder.pos_embedding",
    "timm": "pos_embed",
}

# timm's vision_transformer.py -> torchvision's vision_transformer.py.
_TIMM_NAMES = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    **{f"patch_embed.proj.{part}": f"conv_proj.{part}" for part in ("weight", "bias")},
    **{f"norm.{part}": f"encoder.ln.{part}" for part in ("weight", "bias")},
    **{f"head.{part}": f"heads.head.{part}" for part in ("weight", "bias")},
}
_TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)")
_TIMM_BLOCK_NAMES = {
    "norm1": "ln_1.",
    "norm2": "ln_2.",
    "attn.qkv": "self_attention.in_proj_",
    "attn.proj": "self_attention.out_proj.",
    "mlp.fc1": "mlp.0.",
    "mlp.fc2": "mlp.3.",
}
# Layers that only the logits of the original classes depend on.
_OTHER_HEADS = re.compile(r"(heads?|pre_logits)\.")
# The MLP's layers were linear_1 and linear_2 until torchvision 0.12, and still are in its weights files.
_OLD_MLP = re.compile(r"(encoder\.layers\.encoder_layer_\d+\.mlp\.)linear_([12])(\.\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """An interpolated positional embedding; before, after: its grids (rows, columns)."""

    name: str
    before: Size
    after: Size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversion:
    """Converted weights.

    tensors: by the names of our model.
    taken: the names of `tensors`.
    resized: the positional embeddings that were interpolated.
    left: names in the file of tensors that are not used.
    missing: names of our model that the file lacks; they keep their initial values.
    """

    layout: Layout
    tensors: Mapping[str, Tensor]
    taken: tuple[str, ...]
    resized: tuple[Resized, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]


def layout_of(state: Mapping[str, Tensor], *, where: str) -> Layout:
    """The layout of the names; where: the file, for the message.

    Raises: UserError if it is unknown.
    """
    for name, layout in _MARKS.items():
        if name in state:
            return layout
    first = ", ".join(safe_text(name, 40) for name in sorted(state)[:3])
    raise UserError(
        f"the layout of the weights is unknown; the first names are {first}",
        where,
        "expected a compact transformer, or a ViT of torchvision or timm",
    )


def convert(
    state: Mapping[str, Tensor],
    *,
    config: ModelConfig,
    expected: Mapping[str, Tensor],
    where: str,
    grid: Size | None = None,
    keep_head: bool = True,
) -> Conversion:
    """Convert the tensors of `state` to float32 tensors of the model of `config`. All but the head must be in the file.

    expected: state dict of that model.
    where: the file, for messages.
    grid: (rows, columns) of the file's tokens; None: a square.
    keep_head: whether the classes are the same if their number is.

    Raises: UserError if the file has another model, or positions that cannot be converted.
    """
    layout = layout_of(state, where=where)
    if (layout == "compact") != (config.family != "vit"):
        kinds = {"compact": "a compact transformer", "torchvision": "a ViT of torchvision", "timm": "a ViT of timm"}
        raise UserError(f"the weights are {kinds[layout]}'s, which {safe_text(config.name)} is not", where, "another --model")
    renamed, left = _renamed(state, layout, where)
    ours: Layout = "compact" if layout == "compact" else "torchvision"
    head = [f"{HEAD[ours]}.{part}" for part in ("weight", "bias")]
    same = all(name in renamed and renamed[name].shape == expected[name].shape for name in head)
    if not (keep_head and same) or any("pre_logits" in name for name in left):
        left += [name for name in (f"{HEAD[layout]}.{part}" for part in ("weight", "bias")) if name in state]
        renamed = {name: tensor for name, tensor in renamed.items() if name not in head}
    position = POSITIONS[ours]
    missing = _check_backbone(renamed, expected, config=config, head=head, position=position, where=where)
    resized: tuple[Resized, ...] = ()
    if position in renamed or position in expected:
        renamed, resized = _with_positions(renamed, position, config=config, expected=expected, grid=grid, where=where)
    return Conversion(
        layout=layout,
        tensors={name: tensor.detach().float().contiguous() for name, tensor in renamed.items()},
        taken=tuple(renamed),
        resized=resized,
        left=tuple(left),
        missing=missing,
    )


def _renamed(state: Mapping[str, Tensor], layout: Layout, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by our names, and the names of those that only the file's own classes need.

    Raises: UserError for a tensor that our model lacks: without it the features would differ.
    """
    renamed: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in state.items():
        if layout == "compact":
            renamed[name] = tensor
        elif (plain := _plain_vit_name(name, layout)) is not None:
            renamed[plain] = tensor
        elif _OTHER_HEADS.match(name):
            left.append(name)
        else:
            raise UserError(f"not the weights of a plain ViT: unexpected {safe_text(name)}", where)
    return renamed, left


def _plain_vit_name(name: str, layout: Layout) -> str | None:
    """torchvision's name of a ViT's tensor; None if a plain ViT has no such tensor."""
    if layout == "torchvision":
        if old := _OLD_MLP.fullmatch(name):
            return f"{old[1]}{3 * (int(old[2]) - 1)}{old[3]}"
        return None if "pre_logits" in name else name
    if block := _TIMM_BLOCK.fullmatch(name):
        return f"encoder.layers.encoder_layer_{block[1]}.{_TIMM_BLOCK_NAMES[block[2]]}{block[3]}"
    return _TIMM_NAMES.get(name)


def _with_positions(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    config: ModelConfig,
    expected: Mapping[str, Tensor],
    grid: Size | None,
    where: str,
) -> tuple[dict[str, Tensor], tuple[Resized, ...]]:
    """`tensors` with the positional embedding of the model of `config`: learned ones from the file, interpolated if needed."""
    kind, found = config.positional_embedding, tensors.get(name)
    if found is None or kind == "none":
        if found is not None or kind == "learnable":
            has, lacks = ("no", kind) if found is None else ("a", "none")
            raise UserError(
                f"the weights have {has} positional embedding, that of the model is {lacks}",
                where,
                "--positional-embedding " + ("none" if found is None else "learnable"),
            )
        return {**tensors, name: expected[name]}, ()
    if found.ndim != 3 or found.shape[0] != 1:
        raise UserError(f"the positional embedding has the shape {tuple(found.shape)}, expected (1, tokens, width)", where)
    if kind == "sine":
        if not is_sine(found):
            raise UserError(
                "the positions of the weights are learned (also in the published `_sine` files), those of the model are sine",
                where,
                "--positional-embedding learnable",
            )
        return {**tensors, name: expected[name]}, ()
    class_tokens, after = int(has_class_token(config)), grid_size(config)
    before = _source_grid(found.shape[1] - class_tokens, after if grid is None else grid, square=grid is None, where=where)
    if before == after:
        return dict(tensors), ()
    mode: PositionMode = "bicubic" if config.family == "vit" else "bilinear"
    positions = resize_positions(found, before=before, after=after, class_tokens=class_tokens, mode=mode)
    return {**tensors, name: positions}, (Resized(name=name, before=before, after=after),)


def is_sine(positions: Tensor) -> bool:
    """Whether positions (1, N, D) are the fixed sine and cosine."""
    expected = sinusoidal_embedding(positions.shape[1], positions.shape[2])
    return torch.allclose(positions.float(), expected, rtol=0, atol=1e-5)


def _source_grid(tokens: int, grid: Size, *, square: bool, where: str) -> Size:
    """The grid of the file's tokens: a square if `square` allows it and the number fits, else `grid`."""
    side = math.isqrt(max(tokens, 0))
    if square and side >= 1 and side * side == tokens:
        return side, side
    if grid[0] * grid[1] != tokens:
        raise UserError(f"the file has positions for {tokens} tokens, expected a square or {grid[0]}x{grid[1]}", where)
    return grid


def resize_positions(positions: Tensor, *, before: Size, after: Size, class_tokens: int, mode: PositionMode) -> Tensor:
    """Interpolate positions (1, class_tokens + rows * columns, D) to another grid; class tokens are not changed.

    mode: "bilinear" for compact transformers, as published (SHI-Labs/Compact-Transformers, src/utils/helpers.py, pe_check);
        "bicubic" with antialiasing for ViTs, as in timm (layers/pos_embed.py, resample_abs_pos_embed).
    """
    kept, grid = positions[:, :class_tokens].float(), positions[:, class_tokens:].float()
    grid = grid.reshape(1, *before, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    grid = torch.nn.functional.interpolate(grid, size=after, mode=mode, antialias=mode == "bicubic")
    return torch.cat((kept, grid.flatten(2).transpose(1, 2)), dim=1)


def _check_backbone(
    tensors: dict[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    config: ModelConfig,
    head: list[str],
    position: str,
    where: str,
) -> tuple[str, ...]:
    """Add biases that a file may lack, and return the names of the head's tensors that it lacks. Ignores the positions.

    Raises: UserError if the file's model and ours differ.
    """
    for name, weight in expected.items():
        if name.endswith("in_proj_bias") and name not in tensors and name.replace("bias", "weight") in tensors:
            tensors[name] = torch.zeros(weight.shape)  # a ViT of timm without qkv_bias
    found, wanted = ({name: tensor.shape for name, tensor in side.items() if name != position} for side in (tensors, expected))
    wrong = [name for name in found if found[name] != wanted.get(name)]
    wrong += [name for name in wanted if name not in found and name not in head]
    if wrong:
        shapes = [tuple(side[wrong[0]]) if wrong[0] in side else "none" for side in (found, wanted)]
        raise UserError(
            f"the weights are not those of {safe_text(config.name)}: {safe_text(wrong[0])} is {shapes[0]} in the file, "
            f"{shapes[1]} in the model ({_geometry(tensors)} against {_geometry(expected)})",
            where,
            "another --model",
        )
    return tuple(name for name in head if name not in tensors)


def _geometry(tensors: Mapping[str, Tensor]) -> str:
    """`12 blocks of width 768`."""
    names = [name for name in tensors if not name.startswith("tokenizer.")]
    blocks = {found[0] for name in names if (found := re.search(r"(blocks\.|encoder_layer_)\d+\.", name))}
    width = next((tensors[name].shape[0] for name in names if name.endswith("norm.weight") or "ln_1" in name), 0)
    return f"{len(blocks)} blocks of width {width}"
