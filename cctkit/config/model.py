"""The architecture: `ModelOptions`, as the user names it, and `ModelConfig`, complete."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from cctkit.config.fields import MAIN, MODEL, Validated, flag_name, like, setting
from cctkit.config.size import Size
from cctkit.errors import UserError
from cctkit.text import safe_text

Positional = Literal["learnable", "sine", "none"]
_OVERRIDES = "(overrides the model's default)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(Validated):
    """The name of a model, and changes to it. None: the model's default."""

    model: str = setting("cct_2_3x2", "model name, such as cct_6_3x1, cvt_7_4, vit_lite_6_4", panel=MAIN, flags=("-m",))
    positional_embedding: Positional | None = setting(
        None, f"positional embedding: learnable, sine or none {_OVERRIDES}", panel=MODEL
    )
    num_layers: int | None = setting(None, f"number of transformer blocks {_OVERRIDES}", panel=MODEL, at_least=1)
    embed_dim: int | None = setting(None, f"embedding width {_OVERRIDES}", panel=MODEL, at_least=1)
    num_heads: int | None = setting(None, f"number of attention heads {_OVERRIDES}", panel=MODEL, at_least=1)
    mlp_ratio: float | None = setting(
        None, f"hidden width of the MLP divided by the embedding width {_OVERRIDES}", panel=MODEL, above=0
    )
    patch_size: int | None = setting(
        None, f"patch size in pixels, for CVT, ViT-Lite and ViT {_OVERRIDES}", panel=MODEL, at_least=1
    )
    repeats: int | None = setting(
        None, f"times that each block is applied, with the same matrices, for TCT {_OVERRIDES}", panel=MODEL, at_least=1
    )
    num_stem_blocks: int | None = setting(
        None, f"number of residual blocks at full resolution, for TCT {_OVERRIDES}", panel=MODEL, at_least=0
    )
    stem_dim: int | None = setting(None, f"width at full resolution, for TCT {_OVERRIDES}", panel=MODEL, at_least=1)
    conv_dim: int | None = setting(None, f"width of the convolutional blocks, for TCT {_OVERRIDES}", panel=MODEL, at_least=1)
    attention_dim: int | None = setting(None, f"width of all heads together, for TCT {_OVERRIDES}", panel=MODEL, at_least=1)
    dropout: float = setting(0.0, "dropout rate after the embedding and in the blocks", panel=MODEL, at_least=0, below=1)
    attention_dropout: float = setting(0.1, "dropout rate of the attention weights", panel=MODEL, at_least=0, below=1)
    drop_path: float = setting(
        0.1, "drop path rate of the last block; it increases linearly from 0 at the first", panel=MODEL, at_least=0, below=1
    )


_OPTIONS = {item.name: item for item in dataclasses.fields(ModelOptions)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Validated):
    """One architecture, complete: what `models.build` needs and what a weights file carries. Built by `catalog.models`."""

    name: str
    family: Literal["cct", "cvt", "vit_lite", "vit", "tct"]
    num_classes: int = setting(10, "number of classes", panel=MODEL, at_least=1)
    image_size: Size = (32, 32)
    num_layers: int = like(_OPTIONS["num_layers"], 2)
    embed_dim: int = like(_OPTIONS["embed_dim"], 128)
    num_heads: int = like(_OPTIONS["num_heads"], 2)
    mlp_ratio: float = like(_OPTIONS["mlp_ratio"], 1.0)
    kernel_size: int = setting(3, "kernel size of the tokenizer's convolutions (CCT)", panel=MODEL, at_least=1)
    num_convs: int = setting(1, "number of the tokenizer's convolutions (CCT)", panel=MODEL, at_least=1)
    patch_size: int = like(_OPTIONS["patch_size"], 4)
    num_conv_blocks: int = setting(0, "number of convolutional blocks in the tokenizer (TCT)", panel=MODEL, at_least=0)
    repeats: int = like(_OPTIONS["repeats"], 1)
    num_stem_blocks: int = like(_OPTIONS["num_stem_blocks"], 2)
    stem_dim: int = like(_OPTIONS["stem_dim"], 16)
    conv_dim: int = like(_OPTIONS["conv_dim"], 64)
    attention_dim: int | None = like(_OPTIONS["attention_dim"])
    positional_embedding: Positional = "learnable"
    dropout: float = like(_OPTIONS["dropout"])
    attention_dropout: float = like(_OPTIONS["attention_dropout"])
    drop_path: float = like(_OPTIONS["drop_path"])

    def __post_init__(self) -> None:
        Validated.__post_init__(self)
        key, width = ("attention_dim", self.attention_dim) if self.attention_dim else ("embed_dim", self.embed_dim)
        if width % self.num_heads:
            raise UserError(f"{key} {width} is not divisible by num_heads {self.num_heads}", f"{flag_name(key)}, --num-heads")
        height, width = self.image_size
        if min(height, width) < 8:
            raise UserError(f"image size {height}x{width} is too small, expected at least 8 pixels per side", "--image-size")
        if self.family == "vit" and self.positional_embedding != "learnable":
            raise UserError(f"{self.name} has a learnable positional embedding only", "--positional-embedding", "leave it out")
        patch = self.patch_size
        if self.family not in ("cct", "tct") and (height % patch or width % patch):
            nearest_sizes = (
                "x".join(str(max(1, side // patch + more) * patch if side % patch else side) for side in self.image_size)
                for more in (0, 1)
            )
            raise UserError(
                f"the patch size of {safe_text(self.name)}, {patch} pixels, does not divide {height}x{width}",
                "--image-size",
                f"use {' or '.join(dict.fromkeys(nearest_sizes))}, or a cct model, which takes any size",
            )
