"""Leaving out the samples that drop path drops changes no result: outputs and gradients are those of the mask."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cctkit.catalog.models import named_config
from cctkit.engine.device import DevicePolicy
from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.models.classifier import TransformerEncoderLayer
from cctkit.models.dropout import skip_dropped, use_generator

POLICY = DevicePolicy(device="cpu", precision="float32", attention="chunked", attention_in_evaluation="chunked", threads=1)
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


def block_of(p: float) -> TransformerEncoderLayer:
    torch.manual_seed(0)
    config = named_config("cct_2_3x2", embed_dim=16, attention_dropout=0.0)
    return TransformerEncoderLayer(config, drop_path=p).train()


def kept_of(block: nn.Module, x: Tensor, seed: int) -> list[int]:
    """How many samples each of the block's branches is given."""
    counts: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
        for layer in (block.self_attn, block.linear1)
    ]
    results_of(block, x, seed, skips=True)
    for handle in handles:
        handle.remove()
    return counts


def results_of(block: nn.Module, x: Tensor, seed: int, *, skips: bool) -> list[Tensor]:
    """The output, and the gradients of the input and of all weights."""
    skip_dropped(block, skips)
    use_generator(block, torch.Generator().manual_seed(seed))
    out = block(x)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weight).sum(), [x, *block.parameters()])]


CASES = [
    pytest.param(0.3, 12, 1, 11, id="some"),
    pytest.param(0.001, 12, 12, 12, id="all"),
    pytest.param(0.999, 12, 0, 0, id="none"),
    pytest.param(0.9, 100, 1, 30, id="few"),
    pytest.param(0.001, 1, 1, 1, id="one"),
    pytest.param(0.999, 1, 0, 0, id="none of one"),
]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("path", ATTENTION_IMPLS)
@pytest.mark.parametrize(("p", "batch", "fewest", "most"), CASES)
def test_skipping_equals_masking_on_the_same_draws(
    p: float, batch: int, fewest: int, most: int, path: str, dtype: torch.dtype
) -> None:
    block = block_of(p).to(dtype)
    block.self_attn.attention_impl = path  # type: ignore[assignment]
    x = torch.randn(batch, 5, 16, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert all(fewest <= kept <= most for kept in kept_of(block, x, 0))
    masked, skipped = (results_of(block, x, 0, skips=skips) for skips in (False, True))
    for expected, found in zip(masked, skipped, strict=True):
        torch.testing.assert_close(found, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_a_block_without_kept_samples_is_its_norm_and_has_zero_gradients(attention_dropout: float) -> None:
    block = block_of(0.999)
    block.self_attn.attention_impl, block.self_attn.attn_drop.p = "chunked", attention_dropout
    x = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out, _, *gradients = results_of(block, x, 0, skips=True)
    torch.testing.assert_close(out, nn.functional.layer_norm(x, (16,)))
    for (name, _), gradient in zip(block.named_parameters(), gradients, strict=True):
        assert name.startswith("norm1.") or not gradient.any(), name
    with torch.no_grad():
        torch.testing.assert_close(block(x), out)


def test_in_bf16_the_results_have_the_masks_dtypes_and_equal_it_within_the_rounding() -> None:
    block = block_of(0.3)
    x = torch.randn(12, 5, 16, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masked, skipped = (results_of(block, x, 0, skips=skips) for skips in (False, True))
    assert [result.dtype for result in skipped] == [result.dtype for result in masked]
    torch.testing.assert_close(skipped[0], masked[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("change", "skips"), [({}, True), ({"compile": True}, False), ({"device": "meta"}, False)], ids=["cpu", "compiled", "meta"]
)
def test_dropped_samples_are_skipped_only_on_the_cpu_and_never_compiled(change: dict[str, Any], skips: bool) -> None:
    policy = replace(POLICY, **change)
    block = policy.prepare(block_of(0.999)).train()
    counts: list[int] = []
    block.get_submodule("linear1").register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    block(torch.randn(3, 5, 16, device=policy.device))
    assert counts == [0 if skips else 3]


def test_evaluation_skips_no_sample() -> None:
    block = POLICY.prepare(block_of(0.999)).eval()
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(block(x), block_of(0.0).eval()(x))
