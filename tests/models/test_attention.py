"""The fast attention paths equal the plain one, in values and gradients."""

import pytest
import torch
from torch import Tensor

from cctkit.models import attention
from cctkit.models.attention import Attention, chunked_attention
from cctkit.models.dropout import byte_scale

SCALE = 8**-0.5


def reference(qkv: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by its definition (Vaswani et al. 2017), with a mask of kept weights already scaled."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) * SCALE).softmax(-1)
    out = (weights if mask is None else weights * mask) @ v
    return out.transpose(1, 2).flatten(2)


def qkv_of(batch: int, tokens: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, tokens, 3, 2, 8, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("path", ["fused", "chunked"])
def test_without_dropout_every_implementation_equals_plain(path: attention.AttentionImpl, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Attention(embed_dim=16, num_heads=2, attention_dropout=0.0, dropout=0.0).to(dtype).train()
    x = torch.randn(5, 17, 16, dtype=dtype, requires_grad=True)
    results = []
    for each in ("plain", path):
        layer.attention_impl = each  # type: ignore[assignment]
        out = layer(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("chunk_bytes", [1, 3000, 2**21])
def test_with_dropout_chunked_equals_plain_on_the_same_mask(
    chunk_bytes: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_CHUNK_BYTES", chunk_bytes)
    qkv, generator = qkv_of(5, 9, dtype), torch.Generator().manual_seed(4)
    masks = []
    for start, stop in attention._chunks(torch.empty(5, 2, 9, 8, dtype=dtype)):
        ones = torch.ones(stop - start, 2, 9, 9, dtype=dtype)
        attention._mark_dropped(ones, 0.3, generator)
        masks.append((ones > 0).to(dtype) * byte_scale(0.3))
    expected = reference(qkv, torch.cat(masks))
    expected_grad = torch.autograd.grad(expected.square().sum(), qkv)[0]
    out = chunked_attention(qkv, p=0.3, scale=SCALE, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), qkv)[0], expected_grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_gradient_of_chunked_is_the_numeric_one(p: float) -> None:
    qkv = torch.randn(2, 3, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def run(x: Tensor) -> Tensor:
        return chunked_attention(x, p=p, scale=0.5, generator=torch.Generator().manual_seed(7))

    assert torch.autograd.gradcheck(run, qkv)


@pytest.mark.parametrize(
    "shape", [(3, 4, 3, 1, 8), (1, 1, 3, 2, 8), (0, 4, 3, 2, 8)], ids=["one head", "one token", "no images"]
)
def test_chunked_does_not_change_its_input(shape: tuple[int, ...]) -> None:
    """Of these shapes the head's dimension moves without a copy."""
    qkv = torch.ones(shape).requires_grad_()
    out = chunked_attention(qkv * 1, p=0.5, scale=0.5, generator=torch.Generator().manual_seed(0))
    grad_out = torch.ones_like(out)
    grad = torch.autograd.grad(out, qkv, grad_out)[0]
    assert (grad.shape, grad_out.unique().tolist()) == (shape, [1.0] * (shape[0] > 0))


def test_dropout_preserves_the_expectation_of_chunked() -> None:
    qkv, rounds = qkv_of(2, 6).detach(), 3000
    many = qkv.repeat(rounds, 1, 1, 1, 1)
    draws = chunked_attention(many, p=0.2, scale=SCALE, generator=torch.Generator().manual_seed(0)).view(rounds, 2, 6, 16)
    error = (draws.mean(dim=0) - reference(qkv, None)) / (draws.std(dim=0) / rounds**0.5)
    assert error.abs().max().item() < 5  # standard errors, of 192 values
    assert draws.std(dim=0).min().item() > 0


def test_the_dropout_scale_of_chunked_is_exact_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing dropped all weights of one token are 1, so that what comes out, and its gradient, is v times the scale."""
    monkeypatch.setattr(attention, "_mark_dropped", lambda *_: None)
    qkv = torch.randn(500, 1, 3, 2, 64, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    out = chunked_attention(qkv, p=0.1, scale=SCALE, generator=None)
    v = qkv.detach()[:, :, 2].reshape(500, 1, 128).double()
    (grad,) = torch.autograd.grad(out, qkv, v.bfloat16())
    for part in (out.detach(), grad[:, :, 2].reshape(500, 1, 128)):
        assert ((part.double() * v).sum() / v.square().sum()).item() == pytest.approx(byte_scale(0.1), rel=2e-4)


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 2**21])
def test_the_same_seed_gives_the_same_result_and_another_seed_another(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_CHUNK_BYTES", chunk_bytes)
    qkv = qkv_of(7, 5, torch.float32)
    first, again, other = (
        chunked_attention(qkv, p=0.5, scale=SCALE, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_chunks_cover_the_batch_once_if_they_do_not_divide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_CHUNK_BYTES", 3 * 2 * 4 * 4 * 8)  # three images of two heads, four tokens, float64
    assert attention._chunks(torch.empty(7, 2, 4, 9, dtype=torch.float64)) == [(0, 3), (3, 6), (6, 7)]


def test_dropped_weights_keep_their_magnitude_and_zeros_and_subnormals_are_marked() -> None:
    """A weight that underflowed to zero can be dropped too: its mark is the sign of the zero."""
    for value in (0.0, 1e-45, 1.0):
        weights = torch.full((1, 1, 8, 8), value)
        attention._mark_dropped(weights, 0.5, torch.Generator().manual_seed(0))
        assert torch.equal(weights.abs(), torch.full((1, 1, 8, 8), value))
        assert 0 < weights.signbit().sum().item() < 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_byte_of_a_word_drops_the_stated_fraction(dtype: torch.dtype) -> None:
    ones = torch.ones(40, 1, 100, 100, dtype=dtype)
    attention._mark_dropped(ones, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(ones.abs(), torch.ones_like(ones))
    lanes = (ones < 0).view(ones.element_size(), -1).double().mean(dim=1)
    error = (0.1 * 0.9 * lanes.numel() / ones.numel()) ** 0.5
    assert (lanes - 26 / 256).abs().max().item() < 5 * error


def test_any_number_of_weights_is_masked_to_the_last_one() -> None:
    ones = torch.ones(1, 1, 3, 3)
    attention._mark_dropped(ones, 0.999, torch.Generator().manual_seed(0))
    assert (ones < 0).all()


def test_evaluation_saves_no_attention_weights() -> None:
    layer = Attention(embed_dim=16, num_heads=2, attention_dropout=0.5, dropout=0.0).eval()
    layer.attention_impl = "chunked"
    x = torch.randn(3, 5, 16)
    plain = Attention(embed_dim=16, num_heads=2, attention_dropout=0.0, dropout=0.0).eval()
    plain.load_state_dict(layer.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain(x))
