"""The logits are computed in float32, whatever the format of the layers before."""

import pytest
import torch
from torch import nn

from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.models.build import create_model, set_attention_impl
from cctkit.models.head import float32_logits

NAMES = ["cct_2_3x2", "vit_lite_2_4", "vit"]


def model_of(name: str) -> nn.Module:
    sizes = {"num_layers": 2, "embed_dim": 64, "num_heads": 2, "patch_size": 8} if name == "vit" else {}
    return create_model(name, num_classes=100, image_size=16, **sizes)


def head_of(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("path", ATTENTION_IMPLS)
@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_the_logits_are_float32_without_ties(name: str, path: str) -> None:
    """In bf16 one row in a hundred had two equal largest logits, and the lower class number won."""
    torch.manual_seed(0)
    model = model_of(name).eval()
    set_attention_impl(model, path)  # type: ignore[arg-type]
    seen: list[torch.Tensor] = []
    head = head_of(model)
    nn.init.normal_(head.weight)
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.randn(600, 3, 16, 16))
    assert logits.dtype == seen[0].dtype == torch.float32
    expected = seen[0].double() @ head.weight.detach().T.double() + head.bias.detach()
    torch.testing.assert_close(logits, expected.float())
    best = logits.topk(2).values
    assert (best[:, 0] == best[:, 1]).sum().item() == 0
    rounded = logits.bfloat16().topk(2).values
    assert (rounded[:, 0] == rounded[:, 1]).sum().item() > 0


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_head_and_backbone_through_the_dtypes(name: str) -> None:
    model = model_of(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.randn(4, 3, 16, 16))
    logits.logsumexp(dim=1).sum().backward()
    assert all(
        weight.grad is not None and weight.grad.dtype == torch.float32 for weight in model.parameters() if weight.requires_grad
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_autocast_a_model_computes_in_the_dtype_of_its_weights(dtype: torch.dtype) -> None:
    head = nn.Linear(8, 3).to(dtype)
    x = torch.randn(2, 8, dtype=dtype)
    assert torch.equal(float32_logits(head, x), head(x))
