"""The ViT is torchvision's: its weights, outputs and gradients; for any image shape, with our dropout and drop path."""

import pytest
import torch
from torchvision.models import vision_transformer as torchvision_vit
from torchvision.ops import stochastic_depth

from cctkit.catalog.models import MODELS, named_config
from cctkit.errors import UserError
from cctkit.models.build import build_model, create_model, set_attention_impl
from cctkit.models.dropout import use_generator

TINY = {"num_layers": 3, "embed_dim": 32, "num_heads": 4, "patch_size": 4}
NO_RATES = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}


def tiny(**changes: object) -> torch.nn.Module:
    options = {"num_classes": 7, "image_size": 16, **TINY, **NO_RATES, **changes}
    return build_model(named_config("vit", **options), seed=0)  # type: ignore[arg-type]


def theirs(model: torch.nn.Module) -> torch.nn.Module:
    """torchvision's own model with the same weights."""
    peer = torchvision_vit.VisionTransformer(
        image_size=16, patch_size=4, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=128, num_classes=7
    )
    peer.load_state_dict(model.state_dict())
    return peer.train()


def images(height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.randn(3, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """A fresh ViT's head is zero and its norms are one; these are not."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
    return model


@pytest.mark.parametrize("path", ["plain", "fused", "chunked"])
def test_outputs_and_gradients_are_torchvisions_on_every_attention_path(path: str) -> None:
    ours = randomised(tiny())
    peer = theirs(ours).double()
    ours.double().train()
    set_attention_impl(ours, path)  # type: ignore[arg-type]
    logits, expected = ours(images()), peer(images())
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    for model, out in ((ours, logits), (peer, expected)):
        model.zero_grad()
        out.square().sum().backward()
    gradients = {name: weight.grad for name, weight in ours.named_parameters()}
    for name, weight in peer.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-8, atol=1e-10, msg=name)


# https://docs.pytorch.org/vision/stable/models/vision_transformer.html, num_params of the weights at 224 x 224.
DOCUMENTED = {
    "vit_b_16": 86567656,
    "vit_b_32": 88224232,
    "vit_l_16": 304326632,
    "vit_l_32": 306535400,
    "vit_h_14": 632045800,
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_keys_and_shapes_are_those_of_torchvisions_function_of_that_name(name: str) -> None:
    with torch.device("meta"):
        ours, peer = create_model(name), getattr(torchvision_vit, name)()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in peer.state_dict().items()
    }
    assert sum(weight.numel() for weight in ours.parameters()) == DOCUMENTED[name]


def test_the_small_one_is_deits() -> None:
    """Touvron et al. 2021, table 1: 22 M; timm's deit_small_patch16_224 has 22,050,664."""
    with torch.device("meta"):
        assert sum(weight.numel() for weight in create_model("vit_s_16").parameters()) == 22050664


# Layers, width, heads and width of the MLP: Dosovitskiy et al. 2021, table 1 (the report's); S of Touvron et al. 2021.
SIZES = {"s": (12, 384, 6, 1536), "b": (12, 768, 12, 3072), "l": (24, 1024, 16, 4096), "h": (32, 1280, 16, 5120)}


@pytest.mark.parametrize("letter", SIZES)
def test_layers_width_heads_and_mlp_are_the_papers(letter: str) -> None:
    with torch.device("meta"):
        blocks = create_model(f"vit_{letter}_16").encoder.layers
    layers, width, heads, hidden = SIZES[letter]
    assert len(blocks) == layers
    assert {block.self_attention.num_heads for block in blocks} == {heads}
    assert {block.mlp[0].weight.shape for block in blocks} == {(hidden, width)}


def test_initialisation_is_torchvisions() -> None:
    sizes = {"num_layers": 2, "num_heads": 4, "patch_size": 4}
    ours = create_model("vit", image_size=32, embed_dim=256, num_classes=7, **sizes)
    peer = torchvision_vit.VisionTransformer(image_size=32, hidden_dim=256, mlp_dim=1024, num_classes=7, **sizes)
    for (name, weight), expected in zip(ours.named_parameters(), peer.parameters(), strict=True):
        if weight.numel() > 10_000:
            assert weight.std().item() == pytest.approx(expected.std().item(), rel=0.05), name
            assert weight.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.3), name
        elif "bias" not in name or expected.abs().max() == 0:
            assert torch.equal(weight, expected), name  # ones of the norms, and zeros


@pytest.mark.parametrize("size", [(16, 8), (8, 24)])
def test_images_need_not_be_square(size: tuple[int, int]) -> None:
    model = randomised(tiny(image_size=size)).double().train()
    model(images(*size)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    assert model.encoder.pos_embedding.shape == (1, size[0] * size[1] // 16 + 1, 32)


def test_tokens_run_along_the_rows() -> None:
    """The first row of patches of an image is the whole of an image of one row."""
    wide, square = tiny(image_size=(8, 16)), tiny(image_size=(16, 16))
    pixels = images(16, 16).float()
    torch.testing.assert_close(square.conv_proj(pixels).flatten(2)[:, :, :8], wide.conv_proj(pixels[:, :, :8]).flatten(2))


@pytest.mark.parametrize(("patch", "size", "words"), [(6, 32, "30x30 or 36x36"), (16, (30, 64), "16x64 or 32x64")])
def test_a_size_that_the_patch_does_not_divide_names_the_nearest(patch: int, size: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(patch_size=patch, image_size=size)


def test_the_reports_first_vit_needs_36_pixels_and_has_416_thousand_weights() -> None:
    """8 layers, 64 wide, patch 6, 4 heads. By hand: 8 x (12 x 64^2 + 13 x 64) + patches 6,976 + 38 tokens x 64 (one of
    them the class token itself) + norm 128 + head 6,500; the report's 1.56 M does not follow from its sizes."""
    options = {"num_layers": 8, "embed_dim": 64, "num_heads": 4, "patch_size": 6}
    model = create_model("vit", num_classes=100, image_size=36, **options)
    expected = 8 * (12 * 64**2 + 13 * 64) + (3 * 36 * 64 + 64) + (36 + 1 + 1) * 64 + 128 + 6500
    assert sum(weight.numel() for weight in model.parameters()) == expected == 415908


def test_plain_vit_asks_for_the_sizes_that_it_lacks() -> None:
    with pytest.raises(UserError, match="`vit` needs --num-heads, --patch-size;"):
        create_model("vit", num_layers=8, embed_dim=64)


@pytest.mark.parametrize("positional", ["sine", "none"])
def test_other_positions_are_refused(positional: str) -> None:
    with pytest.raises(UserError, match="vit has a learnable positional embedding only"):
        tiny(positional_embedding=positional)


def test_convolutions_refuse_a_patch_size() -> None:
    with pytest.raises(UserError, match="has no patches"):
        create_model("cct_2_3x2", patch_size=4)
    assert named_config("cvt_6_4", patch_size=8).patch_size == 8


def test_drop_path_drops_both_branches_as_stochastic_depth_does() -> None:
    ours = randomised(tiny(drop_path=0.5)).train()
    use_generator(ours, torch.Generator().manual_seed(3))
    x = images().float()
    got = ours(x)
    torch.manual_seed(3)  # torchvision's ops draw from the default generator
    tokens = (
        torch.cat([ours.class_token.expand(3, -1, -1), ours.conv_proj(x).flatten(2).transpose(1, 2)], dim=1)
        + ours.encoder.pos_embedding
    )
    for rate, block in zip((0.0, 0.25, 0.5), ours.encoder.layers, strict=True):
        branch = block.self_attention(block.ln_1(tokens))[0]
        tokens = tokens + stochastic_depth(branch, rate, "row")
        tokens = tokens + stochastic_depth(block.mlp[3](block.mlp[1](block.mlp[0](block.ln_2(tokens)))), rate, "row")
    torch.testing.assert_close(got, ours.heads(ours.encoder.ln(tokens)[:, 0]))


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "drop_path"])
@pytest.mark.parametrize("path", ["plain", "chunked"])
def test_every_mask_comes_from_the_given_generator(rate: str, path: str) -> None:
    model = randomised(tiny(**{rate: 0.5})).train()
    set_attention_impl(model, path)  # type: ignore[arg-type]
    generator = torch.Generator()
    use_generator(model, generator)
    before = torch.get_rng_state()
    outputs = []
    for seed in (1, 1, 2):
        generator.manual_seed(seed)
        outputs.append(model(images().float()))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_stands_where_torchvision_has_it() -> None:
    ours = tiny(dropout=0.25)
    peer = torchvision_vit.VisionTransformer(
        image_size=16, patch_size=4, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=128, dropout=0.25, num_classes=7
    )
    rates = [sum(getattr(module, "p", 0.0) == 0.25 for module in model.modules()) for model in (ours, peer)]
    assert rates[0] == rates[1] == 1 + 3 * 3


def test_torchvision_is_not_imported_for_a_compact_model() -> None:
    import subprocess
    import sys

    code = "import sys, cctkit; cctkit.create_model('vit_lite_2_4'); print('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_catalogs_names_are_known_with_their_size_and_classes() -> None:
    names = [name for name in MODELS if name.startswith("vit_") and "lite" not in name]
    assert names == ["vit_s_16", "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"]
    assert {(named_config(name).image_size, named_config(name).num_classes) for name in names} == {((224, 224), 1000)}
