"""TCT, the tiny compact transformer: residual convolutions, gated MLPs, attention, sequence pooling.

Three resolutions: the image's with dense 3 x 3 convolutions, half of it with gated MLPs, a quarter with attention too.
Positions come from the depthwise convolution in the gated MLP (ConvGLU: Shi 2024, "TransNeXt", section 3.4): none are stored.
The blocks after the first stage can be applied `repeats` times with the same matrices; norms and layer scales are of each use
(Universal Transformers, Dehghani et al. 2019; ALBERT, Lan et al. 2020, which shares them too).
"""

import torch
from torch import Tensor, nn

from cctkit.catalog.counts import gated_hidden, stage_sizes
from cctkit.config.model import ModelConfig
from cctkit.config.size import Size
from cctkit.models.attention import Attention
from cctkit.models.dropout import Dropout, DropPath, add_branch

_LAYER_SCALE = 0.5  # at the start


class LayerScale(nn.Module):
    """(B, N, D) -> (B, N, D): each channel times its own weight (CaiT: Touvron et al. 2021, section 2.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), _LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype)


class TokenConv(nn.Conv2d):
    """A 3 x 3 convolution of tokens on their grid: (B, rows columns, D) -> (B, fewer with stride, E)."""

    def __init__(self, width: int, out: int, *, grid: Size, stride: int = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__(width, out, 3, stride=stride, padding=1, groups=groups, bias=bias)
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, *self.grid, x.shape[-1]).permute(0, 3, 1, 2)  # (B, D, rows, columns) in channels_last, not copied
        return self._on_grid(x).flatten(2).transpose(1, 2)

    def _on_grid(self, x: Tensor) -> Tensor:
        return super().forward(x)


class DepthwiseConv(TokenConv):
    """A 3 x 3 depthwise convolution of tokens on their grid."""

    def __init__(self, width: int, *, grid: Size, stride: int = 1) -> None:
        super().__init__(width, width, grid=grid, stride=stride, groups=width)

    def _on_grid(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        if self.stride == (1, 1) or not (self.training and x.device.type == "cpu"):
            return super()._on_grid(x)
        # The same outputs: on a CPU, the backward pass of a strided depthwise convolution takes eight times as long.
        dense = nn.functional.conv2d(x, self.weight, self.bias, padding=1, groups=self.groups)
        return dense[:, :, ::rows, ::columns]


class GatedMLP(nn.Module):
    """fc2(gelu(depthwise(gate(x))) * value(x)): (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, *, hidden: int, grid: Size, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden)
        self.depthwise = DepthwiseConv(hidden, grid=grid)
        self.value = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.depthwise(self.gate(x))) * self.value(x)
        return self.dropout(self.fc2(hidden))  # type: ignore[no-any-return]


class TiedBranch(nn.Module):
    """x + drop_path(scale * layer(norm(x))) with one `layer`, and a norm and a layer scale of each use."""

    def __init__(self, layer: nn.Module, *, width: int, repeats: int, drop_path: float) -> None:
        super().__init__()
        self.layer = layer
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(repeats))
        self.scales = nn.ModuleList(LayerScale(width) for _ in range(repeats))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, use: int) -> Tensor:
        return add_branch(x, lambda x: self.scales[use](self.layer(self.norms[use](x))), self.drop_path)


class ResidualConvBlock(nn.Module):
    """x + scale * conv2(gelu(norm2(conv1(norm1(x))))): (B, N, S) -> (B, N, S) (pre-activation: He et al. 2016)."""

    def __init__(self, width: int, *, grid: Size) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.conv1 = TokenConv(width, width, grid=grid, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.conv2 = TokenConv(width, width, grid=grid, bias=False)
        self.scale = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.norm2(self.conv1(self.norm1(x))))
        return x + self.scale(self.conv2(hidden))  # type: ignore[no-any-return]


class TCTConvBlock(nn.Module):
    """(B, N, C) -> (B, N, C): a gated MLP, whose depthwise convolution mixes the tokens, `repeats` times."""

    def __init__(self, config: ModelConfig, *, grid: Size) -> None:
        super().__init__()
        width = config.conv_dim
        mlp = GatedMLP(width, hidden=gated_hidden(config, width), grid=grid, dropout=config.dropout)
        self.repeats = config.repeats
        self.mlp = TiedBranch(mlp, width=width, repeats=config.repeats, drop_path=0.0)

    def forward(self, x: Tensor) -> Tensor:
        for use in range(self.repeats):
            x = self.mlp(x, use)
        return x


class TCTEncoderLayer(nn.Module):
    """(B, N, D) -> (B, N, D): attention and a gated MLP, `repeats` times."""

    def __init__(self, config: ModelConfig, *, grid: Size, drop_path: float) -> None:
        super().__init__()
        width, repeats = config.embed_dim, config.repeats
        attention = Attention(
            embed_dim=width,
            num_heads=config.num_heads,
            attention_dim=config.attention_dim,
            attention_dropout=config.attention_dropout,
            dropout=config.dropout,
        )
        mlp = GatedMLP(width, hidden=gated_hidden(config, width), grid=grid, dropout=config.dropout)
        self.repeats = repeats
        self.attention = TiedBranch(attention, width=width, repeats=repeats, drop_path=drop_path)
        self.mlp = TiedBranch(mlp, width=width, repeats=repeats, drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        for use in range(self.repeats):
            x = self.mlp(self.attention(x, use), use)
        return x


class TCTTokenizer(nn.Module):
    """Images (B, 3, height, width) -> (B, N, D): three stages, of which the last two begin with a stride of 2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        full, half, _ = stage_sizes(config)
        stem, width = config.stem_dim, config.conv_dim
        self.stem = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.stem_blocks = nn.ModuleList(ResidualConvBlock(stem, grid=full) for _ in range(config.num_stem_blocks))
        self.stem_norm = nn.LayerNorm(stem)
        self.down = TokenConv(stem, width, grid=full, stride=2)
        self.blocks = nn.ModuleList(TCTConvBlock(config, grid=half) for _ in range(config.num_conv_blocks))
        self.norm = nn.LayerNorm(width)
        self.shrink = DepthwiseConv(width, grid=half, stride=2)
        self.widen = nn.Linear(width, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)  # (B, height width, S)
        for block in self.stem_blocks:
            x = block(x)
        x = self.down(self.stem_norm(x))  # (B, height/2 width/2, C)
        for block in self.blocks:
            x = block(x)
        return self.widen(self.shrink(self.norm(x)))  # type: ignore[no-any-return]
