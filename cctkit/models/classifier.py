"""The compact models whole: CCT, CVT and ViT-Lite (Hassani et al. 2021), with the published module names, and TCT."""

import torch
from torch import Tensor, nn

from cctkit.catalog.counts import grid_size, has_class_token
from cctkit.config.model import ModelConfig
from cctkit.models.attention import Attention
from cctkit.models.dropout import Dropout, DropPath, add_branch, drop_path_rates
from cctkit.models.head import float32_logits
from cctkit.models.tct import TCTEncoderLayer, TCTTokenizer
from cctkit.models.tokenizer import Tokenizer, check_size


class TransformerEncoderLayer(nn.Module):
    """(B, N, D) -> (B, N, D). As published, `norm1` normalises the residual stream itself, before the MLP's branch."""

    def __init__(self, config: ModelConfig, *, drop_path: float) -> None:
        super().__init__()
        width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.pre_norm = nn.LayerNorm(width)
        self.self_attn = Attention(
            embed_dim=width, num_heads=config.num_heads, attention_dropout=config.attention_dropout, dropout=config.dropout
        )
        self.linear1 = nn.Linear(width, hidden)
        self.dropout1 = Dropout(config.dropout)
        self.norm1 = nn.LayerNorm(width)
        self.linear2 = nn.Linear(hidden, width)
        self.dropout2 = Dropout(config.dropout)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = add_branch(x, lambda x: self.self_attn(self.pre_norm(x)), self.drop_path)
        return add_branch(self.norm1(x), self._mlp, self.drop_path)

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.dropout1(nn.functional.gelu(self.linear1(x)))
        return self.dropout2(self.linear2(hidden))  # type: ignore[no-any-return]


def _block(config: ModelConfig, *, drop_path: float) -> nn.Module:
    if config.family == "tct":
        return TCTEncoderLayer(config, grid=grid_size(config), drop_path=drop_path)
    return TransformerEncoderLayer(config, drop_path=drop_path)


class TransformerClassifier(nn.Module):
    """Tokens (B, N, D) -> logits (B, K): position, blocks, then sequence pooling or ViT-Lite's class token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embed_dim
        rows, columns = grid_size(config)
        tokens = rows * columns
        self.pools = not has_class_token(config)
        if self.pools:
            self.attention_pool = nn.Linear(width, 1)
        else:
            self.class_emb = nn.Parameter(torch.zeros(1, 1, width))
            tokens += 1
        self.positional_emb: nn.Parameter | None = None
        if config.positional_embedding == "learnable":
            self.positional_emb = nn.Parameter(torch.zeros(1, tokens, width))
        elif config.positional_embedding == "sine":
            self.positional_emb = nn.Parameter(sinusoidal_embedding(tokens, width), requires_grad=False)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(_block(config, drop_path=rate) for rate in drop_path_rates(config))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if not self.pools:
            x = torch.cat((self.class_emb.expand(x.shape[0], -1, -1).to(x.dtype), x), dim=1)  # (B, N + 1, D)
        if self.positional_emb is not None:
            x = x + self.positional_emb.to(x.dtype)  # a residual stream in bf16 is half the memory to move
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.pools:
            weights = self.attention_pool(x).softmax(dim=1)  # (B, N, 1)
            x = (weights.transpose(-2, -1) @ x).squeeze(-2)  # (B, D)
        else:
            x = x[:, 0]
        return float32_logits(self.fc, x)


class CompactTransformer(nn.Module):
    """Images (B, 3, height, width), normalised -> logits (B, K)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = TCTTokenizer(config) if config.family == "tct" else Tokenizer(config)
        self.classifier = TransformerClassifier(config)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, self.config)
        return self.classifier(self.tokenizer(x))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """As published (`init_weight` in both files): the patch convolution's bias keeps torch's initial values.

        The matrices of TCT keep the variance of what they multiply (LeCun et al. 1998, "Efficient BackProp", section 4.6).
        """
        keeps_variance = self.config.family == "tct"
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5 if keeps_variance else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        position = self.classifier.positional_emb
        if position is not None and position.requires_grad:
            nn.init.trunc_normal_(position, std=0.2)


def sinusoidal_embedding(num_tokens: int, embed_dim: int) -> Tensor:
    """Fixed positions (1, N, D) of Vaswani et al. 2017, section 3.5: sine at even, cosine at odd columns."""
    position = torch.arange(num_tokens, dtype=torch.float64).unsqueeze(1)
    column = torch.arange(embed_dim, dtype=torch.float64)
    angle = position / 10000 ** (2 * (column // 2) / embed_dim)
    embedding = torch.where(column % 2 == 0, angle.sin(), angle.cos())
    return embedding.unsqueeze(0).float()
