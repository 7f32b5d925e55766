"""TCT: its convolutions, gated MLPs and counts; matrices used again, and what is of each use."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cctkit.catalog.counts import count
from cctkit.catalog.models import named_config
from cctkit.config.settings import TrainConfig
from cctkit.models.attention import ATTENTION_IMPLS, AttentionImpl
from cctkit.models.build import build_model, create_model, set_attention_impl
from cctkit.models.tct import DepthwiseConv, GatedMLP, ResidualConvBlock, TokenConv
from cctkit.training.optim import make_optimizers

NO_RATES = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}


def made(name: str, **options: Any) -> nn.Module:
    return build_model(named_config(name, **{"num_classes": 5, "image_size": (12, 16), **NO_RATES} | options), seed=3).double()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_counts_are_those_computed_by_hand() -> None:
    """Of 100 classes: stem 27 * 16; residual block, two convolutions of 9 * 16 * 16, 2 norms of 2 * 16, scale 16; norm 2 * 16;
    stride 9 * 16 * 64 + 64; convolutional block 3 * 64 * 96 + 9 * 96 + biases 3 * 96 + 64 + 3 * 64 of its use; norm 2 * 64;
    stride 9 * 64 + 64 + 64 * 96 + 96; transformer block: attention 4 * 96 * 64 + 96, MLP 3 * 96 * 144 + 9 * 144 + 3 * 144 + 96,
    use 6 * 96; norm 2 * 96, pooling 97, head 9,700.
    """
    counts = count(named_config("tct_3_2", num_classes=100))
    stem_block, conv_block, block = 4608 + 64 + 16, 18432 + 864 + 352 + 192, 24576 + 96 + 41472 + 1296 + 528 + 576
    stem = 432 + 2 * stem_block + 32 + 9216 + 64
    assert counts.weights == stem + 3 * conv_block + 128 + 640 + 6240 + 2 * block + 192 + 97 + 9700


def untied(tied: nn.Module) -> nn.Module:
    """As many blocks as `tied` has uses of its blocks, each with the matrices, norms and scales of that use."""
    config = tied.config
    name = f"tct_{config.num_conv_blocks * config.repeats}_{config.num_layers * config.repeats}"
    model = made(name)
    state = {}
    for key, value in tied.state_dict().items():
        part, _, rest = key.partition(".blocks.")
        if not rest:
            state[key] = value
            continue
        block, _, rest = rest.partition(".")
        for use in range(config.repeats):
            before, kind, after = rest.partition("norms.") if "norms." in rest else rest.partition("scales.")
            if kind and not after.startswith(f"{use}."):
                continue
            own = f"{before}{kind}0.{after.partition('.')[2]}" if kind else rest
            state[f"{part}.blocks.{int(block) * config.repeats + use}.{own}"] = value
    model.load_state_dict(state)
    return model


def test_repeated_blocks_compute_what_as_many_blocks_with_equal_matrices_do() -> None:
    tied = made("tct_2_2x3")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for key, weight in tied.named_parameters():  # so that the uses differ
            if "norms" in key or "scales" in key:
                weight.add_(torch.randn(weight.shape, dtype=weight.dtype, generator=generator))
    model = untied(tied)
    torch.testing.assert_close(tied(images()), model(images()), rtol=1e-12, atol=1e-12)
    tied(images()).square().sum().backward()
    model(images()).square().sum().backward()
    per_use = [block.mlp.layer.fc2.weight.grad for block in model.classifier.blocks]
    for index, block in enumerate(tied.classifier.blocks):
        expected = sum(per_use[3 * index : 3 * index + 3])
        torch.testing.assert_close(block.mlp.layer.fc2.weight.grad, expected, rtol=1e-9, atol=1e-12)


def test_the_gated_mlp_mixes_neighbours_on_the_grid_of_its_tokens() -> None:
    mlp = GatedMLP(4, hidden=6, grid=(3, 5), dropout=0.0).double()
    x = torch.randn(2, 15, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gate, kernel, bias = mlp.gate(x).detach(), mlp.depthwise.weight[:, 0], mlp.depthwise.bias
    expected = torch.zeros(2, 15, 6, dtype=torch.float64)
    for row in range(3):
        for column in range(5):
            total = bias.clone()
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < 3 and 0 <= column + right < 5:
                        total = total + kernel[:, down + 1, right + 1] * gate[:, (row + down) * 5 + column + right]
            expected[:, row * 5 + column] = total
    hidden = nn.functional.gelu(expected) * mlp.value(x)
    torch.testing.assert_close(mlp(x), mlp.fc2(hidden))


def test_a_residual_block_adds_two_dense_convolutions_on_the_grid() -> None:
    block = ResidualConvBlock(4, grid=(3, 5)).double()
    x = torch.randn(2, 15, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def convolved(conv: TokenConv, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, (3, 5))
        return nn.functional.conv2d(image, conv.weight, padding=1).flatten(2).transpose(1, 2)

    hidden = nn.functional.gelu(block.norm2(convolved(block.conv1, block.norm1(x))))
    torch.testing.assert_close(block(x), x + 0.5 * convolved(block.conv2, hidden))


def test_the_three_stages_have_the_images_side_half_and_a_quarter() -> None:
    model = made("tct_1_1", image_size=(13, 18))
    shapes = {}
    for name in ("stem_blocks.1", "blocks.0", "widen"):
        module = model.tokenizer.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape)}))
    model(torch.zeros(1, 3, 13, 18, dtype=torch.float64))
    assert shapes == {"stem_blocks.1": (1, 13 * 18, 16), "blocks.0": (1, 7 * 9, 64), "widen": (1, 4 * 5, 96)}


@pytest.mark.parametrize("grid", [(3, 5), (4, 6), (1, 2)])
def test_a_stride_keeps_the_same_tokens_in_training_and_in_evaluation(grid: tuple[int, int]) -> None:
    layer = DepthwiseConv(4, grid=grid, stride=2).double()
    x = torch.randn(2, grid[0] * grid[1], 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    image = x.transpose(1, 2).unflatten(2, grid)
    expected = nn.functional.conv2d(image, layer.weight, layer.bias, stride=2, padding=1, groups=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer.train()(x), expected)
    torch.testing.assert_close(layer.eval()(x), expected)


def test_every_attention_implementation_gives_the_same_logits() -> None:
    model = made("tct_1_2x2")
    logits = []
    for attention_impl in ATTENTION_IMPLS:
        set_attention_impl(model, attention_impl)
        logits.append(model(images()))
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("attention_impl", ATTENTION_IMPLS)
def test_in_bf16_the_logits_and_gradients_are_those_of_float32_but_for_rounding(attention_impl: AttentionImpl) -> None:
    exact, rounded = (made("tct_1_2x2").float().to(memory_format=torch.channels_last) for _ in range(2))
    for model in (exact, rounded):
        set_attention_impl(model, attention_impl)
    expected = exact(images().float())
    with torch.autocast("cpu", torch.bfloat16):
        logits = rounded(images().float())
    assert (logits.dtype, (logits - expected).abs().max() < 0.05) == (torch.float32, True)
    for out in (expected, logits):
        out.square().sum().backward()
    for (name, weight), other in zip(exact.named_parameters(), rounded.parameters(), strict=True):
        if name == "classifier.attention_pool.bias":  # its gradient is 0: softmax does not see a shift
            continue
        assert (weight.grad - other.grad).norm() <= 0.1 * weight.grad.norm() + 1e-3, name


def test_each_rate_makes_training_random_and_evaluation_is_without() -> None:
    for rate in NO_RATES:
        model = made("tct_1_3x2", **{rate: 0.5})
        assert torch.equal(model.eval()(images()), made("tct_1_3x2").eval()(images()))
        assert not torch.equal(model.train()(images()), model(images()))


def test_names_and_options_set_the_geometry() -> None:
    assert named_config("tct_1_3").repeats == 1
    config = named_config("tct_1_3x2_c100", repeats=4, conv_dim=40, attention_dim=48, embed_dim=80, mlp_ratio=2.0)
    assert (config.num_classes, config.num_conv_blocks, config.num_layers, config.repeats) == (100, 1, 3, 4)
    with torch.device("meta"):
        model = create_model(
            "tct_1_3x2", repeats=4, stem_dim=24, num_stem_blocks=1, conv_dim=40, attention_dim=48, embed_dim=80, mlp_ratio=2.0
        )
    block = model.classifier.blocks[0]
    assert block.attention.layer.qkv.weight.shape == (3 * 48, 80)
    assert (len(block.mlp.norms), block.mlp.layer.gate.weight.shape) == (4, (160, 80))
    assert model.tokenizer.blocks[0].mlp.layer.value.weight.shape == (80, 40)
    assert (len(model.tokenizer.stem_blocks), model.tokenizer.down.weight.shape) == (1, (40, 24, 3, 3))
    assert model.classifier.positional_emb is None


def test_muon_takes_the_matrices_of_all_blocks_and_nothing_else() -> None:
    model = made("tct_1_1x2")
    _, muon = make_optimizers(model, TrainConfig.from_flat({"model": "tct_1_1x2", "optimizer": "muon"}))
    names = {id(weight): name for name, weight in model.named_parameters()}
    taken = {names[id(weight)] for group in muon.param_groups for weight in group["params"]}
    mlp = {f"mlp.layer.{name}.weight" for name in ("gate", "value", "fc2")}
    block = mlp | {"attention.layer.qkv.weight", "attention.layer.proj.weight"}
    assert taken == {f"tokenizer.blocks.0.{name}" for name in mlp} | {f"classifier.blocks.0.{name}" for name in block}


@pytest.mark.parametrize("key", ["mlp.layer.gate.weight", "attention.layer.proj.weight"])
def test_matrices_start_with_the_variance_that_keeps_that_of_their_input(key: str) -> None:
    weight = made("tct_1_1x2").classifier.blocks[0].get_parameter(key)
    assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)
