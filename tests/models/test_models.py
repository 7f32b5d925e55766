"""Names, sizes, counts, positions and initialisation of the models."""

import math

import numpy as np
import pytest
import torch

from cctkit.catalog.counts import count
from cctkit.catalog.models import MODELS, named_config
from cctkit.errors import UserError
from cctkit.models.build import build_model, create_model
from cctkit.models.dropout import Dropout, DropPath


def gradients_are_finite(model: torch.nn.Module, images: torch.Tensor) -> bool:
    """Whether one backward pass reaches every weight that trains."""
    model.train()(images).square().sum().backward()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in weights)


@pytest.mark.parametrize("name", [name for name in MODELS if count(named_config(name)).weights < 5e7])
def test_every_small_model_of_the_catalog_runs_forward_and_backward_at_its_size(name: str) -> None:
    side = MODELS[name].image_size
    model = build_model(named_config(name, num_classes=7), seed=0)
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert model.eval()(images).shape == (1, 7)
    assert gradients_are_finite(model, images)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_catalog_runs_forward_and_backward_without_memory(name: str) -> None:
    side = MODELS[name].image_size
    with torch.device("meta"):
        model = build_model(named_config(name))
        logits = model.train()(torch.empty(2, 3, side, side))
    assert logits.shape == (2, MODELS[name].num_classes)
    logits.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (8, 8), (9, 31), (8, 200)])
@pytest.mark.parametrize("name", ["cct_2_3x2", "cct_4_3x1", "cct_2_7x2", "cct_2_5x3", "tct_1_2x2"])
def test_convolutions_take_any_size_from_eight_pixels_on(name: str, size: tuple[int, int]) -> None:
    model = create_model(name, num_classes=7, image_size=size)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert model(images).shape == (2, 7)
    assert gradients_are_finite(model, images)


@pytest.mark.parametrize("size", [(48, 32), (8, 8), (8, 200)])
@pytest.mark.parametrize("name", ["cvt_2_4", "vit_lite_2_4", "cvt_2_8"])
def test_patches_take_any_size_that_is_a_multiple_of_theirs(name: str, size: tuple[int, int]) -> None:
    model = create_model(name, num_classes=7, image_size=size)
    assert gradients_are_finite(model, torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))


def test_images_of_another_size_than_the_models_are_an_error() -> None:
    for name in ("cct_2_3x2", "vit_lite_2_4", "tct_1_1x2", "vit_s_16"):
        model = create_model(name, image_size=(48, 32))
        with pytest.raises(UserError, match="48x32 pixels, got 32x48"):
            model(torch.zeros(1, 3, 32, 48))


@pytest.mark.parametrize(
    ("alias", "name", "classes", "size"),
    [
        ("cct_7_3x1_32_sine_c100", "cct_7_3x1", 100, (32, 32)),
        ("cct_7_3x1_32_c10", "cct_7_3x1", 10, (32, 32)),
        ("cct_14_7x2_224", "cct_14_7x2", 1000, (224, 224)),
        ("cct_7_7x2_224_sine", "cct_7_7x2", 102, (224, 224)),
        ("cct_14_7x2_384_fl", "cct_14_7x2", 102, (384, 384)),
        ("vit_6_4_32", "vit_lite_6_4", 10, (32, 32)),
        ("cvt_7_4_32_sine", "cvt_7_4", 10, (32, 32)),
    ],
)
def test_a_published_name_sets_size_and_classes(alias: str, name: str, classes: int, size: tuple[int, int]) -> None:
    config, plain = named_config(alias), named_config(name, num_classes=classes, image_size=size)
    assert (config.num_classes, config.image_size) == (classes, size)
    assert (config.family, config.num_layers, config.embed_dim) == (plain.family, plain.num_layers, plain.embed_dim)
    assert config.positional_embedding == ("sine" if "sine" in alias else "learnable")


def test_given_size_and_classes_win_over_a_published_name() -> None:
    config = named_config("cct_7_3x1_32_c100", num_classes=3, image_size=40)
    assert (config.num_classes, config.image_size) == (3, (40, 40))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cct_6_3x", {}, "cct_6_3x1"),
        ("resnet18", {}, "choose from cct_2_3x2"),
        ("cct_5_3x1", {}, "has 5 layers, for which no size is published"),
        ("cct_6_3x1", {"drop_pth": 0.1}, "drop_path"),
        ("cct_6_3x1", {"dropout": 1.0}, "below 1"),
        ("cct_6_3x1", {"image_size": 4}, "at least 8 pixels"),
        ("cvt_6_4", {"image_size": 30}, "does not divide 30x30"),
        ("cct_6_3x1", {"num_heads": 3}, "not divisible"),
        ("cct_6_3x1", {"repeats": 2}, "cct_6_3x1 has no --repeats"),
        ("vit_b_16", {"attention_dim": 64}, "vit_b_16 has no --attention-dim"),
        ("tct_3_2", {"patch_size": 4}, "has no patches"),
        ("tct_3_2", {"num_heads": 5}, "attention_dim 64 is not divisible"),
        ("tct_2", {}, "tct_3_2"),
    ],
)
def test_a_wrong_name_or_option_says_what_is_known(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        create_model(name, **options)  # type: ignore[arg-type]


def test_any_depth_can_be_had_when_its_sizes_are_given() -> None:
    config = named_config("cct_3_3x1", embed_dim=64, num_heads=4, mlp_ratio=1.5)
    model = build_model(config)
    assert len(model.classifier.blocks) == 3
    assert model.classifier.blocks[0].linear1.weight.shape == (96, 64)


@pytest.mark.parametrize(("name", "tokens"), [("cvt_6_4_sine", 64), ("vit_lite_6_4_sine", 65), ("cct_6_3x1_32_sine_c100", 256)])
def test_sine_positions_follow_the_formula_and_do_not_learn(name: str, tokens: int) -> None:
    """Vaswani et al. 2017, section 3.5: sin(p / 10000^(2i / D)) at column 2i, the cosine at 2i + 1."""
    model = create_model(name)
    position = model.classifier.positional_emb
    expected = np.empty((tokens, 256))
    for pair in range(128):
        angle = np.arange(tokens) / 10000 ** (2 * pair / 256)
        expected[:, 2 * pair], expected[:, 2 * pair + 1] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(position[0].numpy(), expected, rtol=0, atol=1e-6)
    assert not position.requires_grad
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    np.testing.assert_allclose(position[0].numpy(), expected, rtol=0, atol=1e-6)


def test_none_has_no_positional_embedding() -> None:
    model = create_model("cct_2_3x2_none").eval()
    assert not any("positional" in name for name in model.state_dict())
    assert model.classifier.positional_emb is None


@pytest.mark.parametrize(("positional", "same"), [("none", True), ("learnable", False), ("sine", False)])
@pytest.mark.parametrize("name", ["cvt_2_4", "vit_lite_2_4"])
def test_only_without_positions_the_order_of_the_patches_is_lost(name: str, positional: str, same: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    model = build_model(named_config(name, positional_embedding=positional), seed=0).double().eval()
    images = torch.randn(2, 3, 8, 4, 8, 4, dtype=torch.float64, generator=generator)  # rows and columns of 4 x 4 patches
    turned = images.flip(2).roll(3, dims=4)
    with torch.no_grad():
        logits, shuffled = (model(each.reshape(2, 3, 32, 32)) for each in (images, turned))
    assert torch.allclose(logits, shuffled, rtol=0, atol=1e-9) is same


def test_without_rates_training_computes_what_evaluation_does() -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("cct_2_3x2", "vit_lite_2_4"):
        model = create_model(name, dropout=0.0, attention_dropout=0.0, drop_path=0.0)
        assert torch.equal(model.train()(images), model.eval()(images))


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "drop_path"])
def test_each_rate_alone_makes_training_random_and_leaves_evaluation_alone(rate: str) -> None:
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = build_model(named_config("cct_4_3x2", **rates), seed=0)
    model = build_model(named_config("cct_4_3x2", **rates | {rate: 0.5}), seed=0)
    assert torch.equal(model.eval()(images), plain.eval()(images))
    model.train()
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize(("name", "fan_in"), [("cct_6_3x2", 3 * 9), ("cvt_6_4", 3 * 16), ("vit_lite_6_4", 3 * 16)])
def test_initialisation_is_the_published_one(name: str, fan_in: int) -> None:
    model = build_model(named_config(name, num_classes=100), seed=1)
    conv = model.tokenizer.conv_layers[0][0]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.06)  # kaiming normal, gain 2
    if conv.bias is not None:  # torch's own: uniform within 1 / sqrt(fan-in)
        assert 0.8 / fan_in**0.5 < conv.bias.abs().max().item() <= 1 / fan_in**0.5
    weights = dict(model.classifier.named_parameters())
    linear = {key: weight for key, weight in weights.items() if weight.ndim == 2}
    assert len(linear) == 6 * 4 + (1 if name.startswith("vit") else 2)
    for key, weight in linear.items():
        assert weight.std().item() == pytest.approx(0.02, rel=4 / (2 * weight.numel()) ** 0.5), key  # four standard errors
        assert weight.abs().max().item() < 0.11, key
    ones = [key for key, weight in weights.items() if "norm" in key and "weight" in key]
    assert all((weights[key] == 1).all() for key in ones)
    zeros = [key for key in weights if key.endswith("bias") or key == "class_emb"]
    assert all((weights[key] == 0).all() for key in zeros)
    assert weights["positional_emb"].std().item() == pytest.approx(0.2, rel=0.03)


def test_the_second_convolution_is_kaiming_normal_too() -> None:
    weight = build_model(named_config("cct_6_3x2"), seed=1).tokenizer.conv_layers[1][0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


def test_a_seed_gives_the_same_weights_and_does_not_change_torchs_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    first, second, other = (build_model(named_config("cct_2_3x2"), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.fc.weight"], other["classifier.fc.weight"])
    assert torch.equal(before, torch.get_rng_state())
    assert seeded == []


def test_a_block_drops_where_the_published_one_does() -> None:
    """Dropout of p stands after the projection, the activation and the second linear layer; drop path on both branches.
    Told by which draws are made, in which order, for shapes that differ.
    """
    block = build_model(named_config("cct_2_3x2", dropout=0.5, attention_dropout=0.25, drop_path=0.5), seed=0).train()
    block = block.classifier.blocks[1]
    drawn: list[tuple[str, float, tuple[int, ...]]] = []
    for name, module in block.named_modules():
        if isinstance(module, (Dropout, DropPath)):
            module.register_forward_hook(
                lambda module, inputs, _, name=name: drawn.append((name, module.p, tuple(inputs[0].shape)))
            )
    x = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(0))
    block(x)
    assert drawn == [
        ("self_attn.attn_drop", 0.25, (3, 2, 5, 5)),
        ("self_attn.proj_drop", 0.5, (3, 5, 128)),
        ("drop_path", 0.5, (3, 5, 128)),
        ("dropout1", 0.5, (3, 5, 128)),
        ("dropout2", 0.5, (3, 5, 128)),
        ("drop_path", 0.5, (3, 5, 128)),
    ]
    for module in block.modules():
        if isinstance(module, (Dropout, DropPath)):
            module.forward = torch.zeros_like  # type: ignore[method-assign]
    torch.testing.assert_close(block(x), torch.nn.functional.layer_norm(x, (128,)))  # the published block's residual


def test_drop_path_grows_linearly_with_depth() -> None:
    blocks = create_model("cct_7_3x1", drop_path=0.3).classifier.blocks
    rates = [getattr(block.drop_path, "p", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])


SIZES = {2: (128, 2, 128), 4: (128, 2, 128), 6: (256, 4, 512), 7: (256, 4, 512), 14: (384, 6, 1152)}


@pytest.mark.parametrize("layers", SIZES)
def test_the_depth_sets_width_heads_and_mlp(layers: int) -> None:
    """The papers' table of variants: blocks, width, heads and the hidden width of the MLP."""
    with torch.device("meta"):
        blocks = create_model(f"cct_{layers}_3x2").classifier.blocks
    width, heads, hidden = SIZES[layers]
    assert len(blocks) == layers
    assert {block.self_attn.proj.weight.shape for block in blocks} == {(width, width)}
    assert {block.self_attn.num_heads for block in blocks} == {heads}
    assert {block.linear1.weight.shape for block in blocks} == {(hidden, width)}


def test_cvt_has_a_size_of_eight_layers_too() -> None:
    config = named_config("cvt_8_4_32_sine")
    assert (config.num_layers, config.embed_dim, config.num_heads, config.mlp_ratio) == (8, 256, 4, 2)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 1), (3, 1, 1), (5, 1, 2), (7, 2, 3), (9, 3, 4)])
def test_the_convolutions_stride_and_padding_follow_from_the_kernel(kernel: int, stride: int, padding: int) -> None:
    with torch.device("meta"):
        layers = create_model(f"cct_2_{kernel}x2", image_size=64).tokenizer.conv_layers
    assert [(conv.stride, conv.padding, conv.out_channels) for conv, _, _ in layers] == [
        ((stride, stride), (padding, padding), 64),
        ((stride, stride), (padding, padding), 128),
    ]
