"""torchvision's VisionTransformer for images of any shape, with our attention, dropout and drop path.

torchvision takes two seconds to import: `models.build` imports this module only for a ViT.
"""

import torch
from torch import Tensor, nn
from torchvision.models import vision_transformer as torchvision_vit

from cctkit.catalog.counts import grid_size
from cctkit.config.model import ModelConfig
from cctkit.models.attention import HasAttentionImpl, attend
from cctkit.models.dropout import Dropout, DropPath, drop_path_rates
from cctkit.models.head import float32_logits
from cctkit.models.tokenizer import check_size


class SelfAttention(HasAttentionImpl, nn.MultiheadAttention):
    """Self-attention (B, N, D) -> (B, N, D) with torch's weights and the implementations of `models.attention`.

    torch's own forward draws its dropout from the default generator, so a resumed run would not repeat it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.embed_dim, config.num_heads, batch_first=True)
        self.attn_drop = Dropout(config.attention_dropout)

    def forward(self, query: Tensor, *_: Tensor, **__: bool) -> tuple[Tensor, None]:  # type: ignore[override]
        """Attention of `query` to itself, as torchvision calls it: with the same tensor three times, without weights."""
        batch, tokens, width = query.shape
        qkv = nn.functional.linear(query, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(batch, tokens, 3, self.num_heads, width // self.num_heads)
        return self.out_proj(attend(qkv, dropout=self.attn_drop, impl=self.attention_impl)), None


class VisionTransformer(torchvision_vit.VisionTransformer):  # type: ignore[misc]
    """Images (B, 3, height, width), normalised -> logits (B, K); the state dict is torchvision's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            image_size=config.patch_size,  # one patch; the positions are made below
            patch_size=config.patch_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            hidden_dim=config.embed_dim,
            mlp_dim=int(config.embed_dim * config.mlp_ratio),
            num_classes=config.num_classes,
        )
        self.config = config
        rows, columns = grid_size(config)
        self.seq_length = rows * columns + 1
        self.encoder.pos_embedding = nn.Parameter(torch.empty(1, self.seq_length, config.embed_dim).normal_(std=0.02))
        self.encoder.dropout = Dropout(config.dropout)
        for block, rate in zip(self.encoder.layers, drop_path_rates(config), strict=True):
            drop_path = DropPath(rate)
            block.self_attention = SelfAttention(config)
            block.dropout = nn.Sequential(Dropout(config.dropout), drop_path)
            block.mlp[2], block.mlp[4] = Dropout(config.dropout), nn.Sequential(Dropout(config.dropout), drop_path)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, height, width) -> class token and patches after the encoder (B, N + 1, D)."""
        check_size(x, self.config)
        x = self.conv_proj(x).flatten(2).transpose(1, 2)  # (B, N, D)
        return self.encoder(torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return float32_logits(self.heads, self.forward_features(x)[:, 0])
