"""The transformer block of the compact models: `Compact-Transformers/src/utils/transformers.py`."""

from torch import Tensor, nn

from cctkit.config.settings import ModelConfig
from cctkit.models.attention import Attention
from cctkit.models.dropout import Dropout, DropPath, add_branch


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
