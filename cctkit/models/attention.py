"""Self-attention with three implementations of equal results: plain, fused (torch's kernel) and chunked (for CPUs).

`engine/device.py` decides which one runs; `plain` is the definition that the others are tested against.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from cctkit.models.dropout import Dropout, byte_scale, byte_threshold, has_data, random_bytes

AttentionImpl = Literal["plain", "fused", "chunked"]
ATTENTION_IMPLS: tuple[AttentionImpl, ...] = ("plain", "fused", "chunked")
# On a CPU the dropout of torch's kernel uses the default generator, so its masks do not depend on seed, step and rank alone.
SEEDED_ATTENTION_IMPLS: tuple[Literal["plain", "chunked"], ...] = ("plain", "chunked")

# Bytes of the attention weights of a chunk: a few chunks fit into the L2 cache of a core.
_CHUNK_BYTES = 2 * 2**20


class HasAttentionImpl(nn.Module):
    """A module whose implementation `set_attention_impl` selects; all give equal results."""

    attention_impl: AttentionImpl = "plain"


class Attention(HasAttentionImpl):
    """Multi-head self-attention of `Compact-Transformers/src/utils/transformers.py`: (B, N, D) -> (B, N, D).

    attention_dim: width of all heads together (default: D, as published).
    """

    def __init__(
        self, *, embed_dim: int, num_heads: int, attention_dropout: float, dropout: float, attention_dim: int | None = None
    ) -> None:
        super().__init__()
        inner = attention_dim or embed_dim
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * inner, bias=False)
        self.attn_drop = Dropout(attention_dropout)
        self.proj = nn.Linear(inner, embed_dim)
        self.proj_drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, H, d)
        return self.proj_drop(self.proj(attend(qkv, dropout=self.attn_drop, impl=self.attention_impl)))  # type: ignore[no-any-return]


def attend(qkv: Tensor, *, dropout: Dropout, impl: AttentionImpl) -> Tensor:
    """softmax(q k / sqrt(d)) v with dropout of the weights: (B, N, 3, H, d) -> (B, N, H d)."""
    p, scale = dropout.p if dropout.training else 0.0, qkv.shape[-1] ** -0.5
    if impl == "chunked":
        return chunked_attention(qkv, p=p, scale=scale, generator=dropout.generator)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, d)
    if impl == "fused":
        x = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=p)
    else:
        x = dropout((q @ k.transpose(-2, -1) * scale).softmax(dim=-1)) @ v
    return x.transpose(1, 2).flatten(2)


def chunked_attention(qkv: Tensor, *, p: float, scale: float, generator: torch.Generator | None) -> Tensor:
    """Attention for a few images at a time, so that the weights stay in cache: (B, N, 3, H, d) -> (B, N, H d).

    The dropout mask is stored in the sign bit of the saved weights: a training step keeps one matrix of weights per layer,
    where autograd keeps three and a mask for `plain`.
    """
    return _ChunkedAttention.apply(qkv, p, scale, generator)  # type: ignore[no-any-return]


class _ChunkedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, p: float, scale: float, generator: torch.Generator | None) -> Tensor:
        batch, tokens, _, heads, width = qkv.shape
        keeps = any(ctx.needs_input_grad)
        q, k, v = qkv = _copy(qkv.permute(2, 0, 3, 1, 4))  # each (B, H, N, d)
        q.mul_(scale)
        out = torch.empty_like(q)
        chunks = _chunks(q)
        weights = qkv.new_empty(batch if keeps else chunks[0][1], heads, tokens, tokens)
        for start, stop in chunks:
            chunk = weights[start:stop] if keeps else weights[: stop - start]
            torch.matmul(q[start:stop], k[start:stop].transpose(-2, -1), out=chunk)
            torch.softmax(chunk, dim=-1, out=chunk)
            if p > 0:
                _mark_dropped(chunk, p, generator)
                chunk = chunk.clamp_min(0)
            torch.matmul(chunk, v[start:stop], out=out[start:stop])
        if p > 0:
            out.mul_(byte_scale(p))
        if keeps:
            ctx.save_for_backward(qkv, weights, out)
            ctx.p, ctx.scale = p, scale
        return out.transpose(1, 2).reshape(batch, tokens, heads * width)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, weights, out = ctx.saved_tensors
        p = ctx.p
        batch, heads, tokens, width = out.shape
        q, k, v = qkv
        grad_out = _copy(grad_out.view(batch, tokens, heads, width).transpose(1, 2))  # (B, H, N, d)
        exact = torch.promote_types(qkv.dtype, torch.float32)
        grad = torch.empty_like(qkv)
        grad_q, grad_k, grad_v = grad
        for start, stop in _chunks(q):
            chunk = slice(start, stop)
            grad_o, marked = grad_out[chunk], weights[chunk]
            # Softmax's backward needs the sum of gradient times weight of each row, which equals that of dO times O.
            rows = (grad_o.to(exact) * out[chunk]).sum(-1, keepdim=True).to(qkv.dtype)
            if p > 0:
                grad_o.mul_(byte_scale(p))
            kept = marked.clamp_min(0) if p > 0 else marked  # (c, H, N, N)
            torch.matmul(kept.transpose(-2, -1), grad_o, out=grad_v[chunk])
            grad_s = torch.matmul(grad_o, v[chunk].transpose(-2, -1)).mul_(kept)
            grad_s.addcmul_(marked.abs() if p > 0 else marked, rows, value=-1)
            torch.matmul(grad_s, k[chunk], out=grad_q[chunk])
            torch.matmul(grad_s.transpose(-2, -1), q[chunk], out=grad_k[chunk])
        grad_q.mul_(ctx.scale)
        return grad.permute(1, 3, 0, 2, 4).contiguous(), None, None, None


def _copy(x: Tensor) -> Tensor:
    """A contiguous copy. `x.contiguous()` returns x itself if it is contiguous, as with one head or no images."""
    return x.clone(memory_format=torch.contiguous_format)


def _chunks(q: Tensor) -> list[tuple[int, int]]:
    """(start, stop) of each chunk of the batch of q (B, H, N, d).

    Without data the first two chunks are enough: more do not change the predicted memory.
    """
    batch, heads, tokens, _ = q.shape
    size = max(1, _CHUNK_BYTES // (heads * tokens * tokens * q.element_size()))
    chunks = [(start, min(start + size, batch)) for start in range(0, max(1, batch), size)]
    return chunks if has_data(q) else chunks[:2]


_SIGNED = {1: (torch.int8, -(2**7)), 2: (torch.int16, -(2**15)), 4: (torch.int32, -(2**31)), 8: (torch.int64, -(2**63))}


def _mark_dropped(weights: Tensor, p: float, generator: torch.Generator | None) -> None:
    """Set the sign bit of the weights that dropout drops, in place, by one random byte each; no weight is negative.

    Works on whole machine words: byte `i` of the words decides about the i-th part of the weights. Comparing single bytes
    and multiplying by a mask takes four times as long.
    """
    lanes = weights.element_size()
    dtype, sign_bit = _SIGNED[lanes]
    flat = weights.view(-1).view(dtype)
    part = -(-flat.numel() // lanes)
    words = random_bytes((part * lanes,), generator).view(dtype)
    lane = torch.empty_like(words)
    first_kept = byte_threshold(p) - 128  # of the bytes as signed numbers
    for i in range(lanes):
        target = flat[i * part : (i + 1) * part]
        torch.bitwise_left_shift(words, 8 * (lanes - 1 - i), out=lane)
        lane.bitwise_right_shift_(8 * (lanes - 1)).sub_(first_kept).bitwise_and_(sign_bit)
        target.bitwise_or_(lane[: target.numel()])
