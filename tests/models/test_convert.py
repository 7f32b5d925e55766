"""Weights of every known layout give our model the other one's outputs; positions and heads are fitted."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from cctkit.catalog.models import named_config
from cctkit.config.model import ModelConfig
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.models.convert import Conversion, convert, is_sine, resize_positions
from cctkit.models.depth import depth_of, is_head

TINY = {"num_layers": 3, "embed_dim": 32, "num_heads": 4, "patch_size": 4}


def vit(image_size: Any = 16, num_classes: int = 7, **changes: Any) -> ModelConfig:
    return named_config("vit", num_classes=num_classes, image_size=image_size, **TINY | changes)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
    return model.eval()


def taken(state: dict[str, Tensor], config: ModelConfig, **options: Any) -> tuple[nn.Module, Conversion]:
    """The model of `config` with the weights of `state`, and how they came."""
    model = build_model(config, seed=1)
    conversion = convert(state, config=config, expected=model.state_dict(), where="FILE", **options)
    model.load_state_dict({**model.state_dict(), **conversion.tensors})
    return model.eval(), conversion


def images(size: int = 16) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def timm_vit(**changes: Any) -> nn.Module:
    """A ViT of timm's, with its own names."""
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 7}
    return randomised(timm.models.vision_transformer.VisionTransformer(**sizes | changes))


def torchvision_vit() -> nn.Module:
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 128}
    return randomised(VisionTransformer(num_classes=7, **sizes))


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False}])
def test_converted_timm_weights_give_timms_logits_and_features(changes: dict[str, Any]) -> None:
    theirs = timm_vit(**changes)
    ours, conversion = taken(theirs.state_dict(), vit())
    torch.testing.assert_close(ours(images()), theirs(images()), rtol=0, atol=1e-5)
    assert (conversion.layout, conversion.left, conversion.missing, conversion.resized) == ("timm", (), (), ())
    features = ours.forward_features(images())
    torch.testing.assert_close(features, theirs.forward_features(images()), rtol=0, atol=1e-5)


def test_positions_of_timm_are_interpolated_as_timm_does() -> None:
    theirs, larger = timm_vit(), timm_vit(img_size=(24, 32))
    from timm.models.vision_transformer import checkpoint_filter_fn

    larger.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), larger))
    ours, conversion = taken(theirs.state_dict(), vit((24, 32)))
    x = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(x), larger(x), rtol=0, atol=1e-5)
    assert [(each.name, each.before, each.after) for each in conversion.resized] == [("encoder.pos_embedding", (4, 4), (6, 8))]


@pytest.mark.parametrize("changes", [{"init_values": 0.1}, {"reg_tokens": 2}, {"qk_norm": True}, {"global_pool": "avg"}])
def test_a_timm_vit_that_is_not_plain_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="plain ViT"):
        taken(timm_vit(**changes).state_dict(), vit())


def test_torchvision_weights_give_its_logits_with_new_and_old_names() -> None:
    theirs = torchvision_vit()
    state = theirs.state_dict()
    old = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value for name, value in state.items()}
    assert old.keys() != state.keys()
    for names in (state, old):
        ours, conversion = taken(names, vit())
        torch.testing.assert_close(ours(images()), theirs(images()))
        assert (conversion.layout, conversion.left, conversion.missing) == ("torchvision", (), ())


@pytest.mark.parametrize("name", ["cct_2_3x2", "cvt_2_4_none", "vit_lite_2_4", "cct_2_3x1_sine"])
def test_weights_of_a_compact_transformer_are_not_changed(name: str) -> None:
    theirs = build_model(named_config(name), seed=3).eval()
    ours, conversion = taken(theirs.state_dict(), named_config(name))
    assert torch.equal(ours(images(32)), theirs(images(32)))
    assert (conversion.layout, conversion.left, conversion.missing, conversion.resized) == ("compact", (), (), ())


@pytest.mark.parametrize(("size", "grid"), [(48, (12, 12)), ((32, 64), (8, 16)), ((16, 24), (4, 6))])
@pytest.mark.parametrize("name", ["cct_2_3x2", "vit_lite_2_4"])
def test_positions_are_interpolated_to_any_image_shape_and_the_class_token_stays(name: str, size: Any, grid: Any) -> None:
    theirs = randomised(build_model(named_config(name), seed=3)).state_dict()
    model, conversion = taken(theirs, named_config(name, image_size=size))
    position = model.classifier.positional_emb
    tokens = int(name.startswith("vit"))
    # SHI-Labs/Compact-Transformers, src/utils/helpers.py, resize_pos_embed, which pe_check calls.
    posemb_grid = theirs["classifier.positional_emb"][0, tokens:].reshape(1, 8, 8, -1).permute(0, 3, 1, 2)
    posemb_grid = torch.nn.functional.interpolate(posemb_grid, size=grid, mode="bilinear")
    assert torch.equal(position[:, tokens:], posemb_grid.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1))
    assert torch.equal(position[:, :tokens], theirs["classifier.positional_emb"][:, :tokens])
    assert [(each.before, each.after) for each in conversion.resized] == [((8, 8), grid)]
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.zeros(1, 3, height, width)).isfinite().all()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_keeps_constants_and_follows_slopes(mode: Any) -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    flat = torch.stack([torch.full_like(rows, 2.5), rows, columns], dim=-1).view(1, 64, 3)
    grid = resize_positions(flat, before=(8, 8), after=(16, 12), class_tokens=0, mode=mode).view(16, 12, 3)
    torch.testing.assert_close(grid[..., 0], torch.full((16, 12), 2.5))
    middle = (torch.arange(16) + 0.5) / 2 - 0.5  # centre of a row of the larger grid, in rows of the smaller
    torch.testing.assert_close(grid[5:-5, 6, 1], middle[5:-5], rtol=0, atol=1e-5)
    torch.testing.assert_close(grid[8, 4:-4, 2], ((torch.arange(12) + 0.5) / 1.5 - 0.5)[4:-4], rtol=0, atol=0.02)


def test_a_file_of_known_grid_is_interpolated_even_for_the_same_number_of_tokens() -> None:
    wide = randomised(build_model(named_config("vit_lite_2_4", image_size=(16, 64)), seed=3)).state_dict()
    config = named_config("vit_lite_2_4", image_size=32)
    _, conversion = taken(wide, config, grid=(4, 16))
    assert [(each.before, each.after) for each in conversion.resized] == [((4, 16), (8, 8))]
    with pytest.raises(UserError, match="64 tokens, expected a square or 3x16"):
        taken(wide, config, grid=(3, 16))


def test_positions_that_are_not_a_square_are_taken_if_their_number_is_equal() -> None:
    wide = randomised(build_model(named_config("cvt_2_4", image_size=(16, 48)), seed=3)).state_dict()
    _, conversion = taken(wide, named_config("cvt_2_4", image_size=(16, 48)))
    assert conversion.resized == ()
    with pytest.raises(UserError, match="48 tokens, expected a square or 8x8"):
        taken(wide, named_config("cvt_2_4"))


@pytest.mark.parametrize(
    ("state", "config", "left"),
    [
        (
            lambda: build_model(named_config("cct_2_3x2")).state_dict(),
            named_config("cct_2_3x2", num_classes=3),
            "classifier.fc",
        ),
        (lambda: torchvision_vit().state_dict(), vit(num_classes=3), "heads.head"),
        (lambda: timm_vit().state_dict(), vit(num_classes=3), "head"),
        (lambda: timm_vit(num_classes=0).state_dict(), vit(), None),
    ],
)
def test_the_head_is_replaced_if_the_number_of_classes_differs(state: Any, config: ModelConfig, left: str | None) -> None:
    fresh = build_model(config, seed=1).state_dict()
    model, conversion = taken(state(), config)
    head = "classifier.fc" if config.family == "cct" else "heads.head"
    assert conversion.left == ((f"{left}.weight", f"{left}.bias") if left else ())
    assert conversion.missing == (f"{head}.weight", f"{head}.bias")
    assert all(torch.equal(model.state_dict()[name], fresh[name]) for name in conversion.missing)
    assert set(conversion.taken) | set(conversion.missing) == fresh.keys()


def test_the_head_is_replaced_if_the_classes_differ_but_not_their_number() -> None:
    state = build_model(named_config("cct_2_3x2"), seed=5).state_dict()
    _, conversion = taken(state, named_config("cct_2_3x2"), keep_head=False)
    assert conversion.left == conversion.missing == ("classifier.fc.weight", "classifier.fc.bias")


def test_a_pre_logits_layer_is_dropped_together_with_the_head() -> None:
    sizes = {"image_size": 16, "patch_size": 4, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 128}
    state = VisionTransformer(num_classes=7, representation_size=32, **sizes).state_dict()
    _, conversion = taken(state, vit())
    assert conversion.left == ("heads.pre_logits.weight", "heads.pre_logits.bias", "heads.head.weight", "heads.head.bias")
    assert conversion.missing == ("heads.head.weight", "heads.head.bias")


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("cct_4_3x2", "cct_2_3x2", "4 blocks of width 128 against 2 blocks of width 128"),
        ("cct_2_3x2", "cct_4_3x2", "2 blocks of width 128 against 4 blocks of width 128"),
        ("cct_6_3x2", "cct_2_3x2", "width 256"),
        ("cct_2_3x2", "vit_s_16", "a compact transformer's, which vit_s_16 is not"),
        ("cvt_2_4", "vit_lite_2_4", "attention_pool"),
        ("cct_2_3x2_none", "cct_2_3x2", "no positional embedding"),
        ("cct_2_3x2", "cct_2_3x2_none", "that of the model is none"),
        ("cct_2_3x2", "cct_2_3x2_sine", "positions of the weights are learned"),
    ],
)
def test_weights_of_another_model_are_an_error_that_names_the_difference(source: str, target: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        taken(build_model(named_config(source), seed=0).state_dict(), named_config(target))
    assert caught.value.where == "FILE"


def test_vit_weights_for_a_compact_model_and_unknown_layouts_are_errors() -> None:
    with pytest.raises(UserError, match="a ViT of torchvision"):
        taken(torchvision_vit().state_dict(), named_config("cct_2_3x2"))
    with pytest.raises(UserError, match=r"layout of the weights is unknown; the first names are conv1\.weight"):
        taken({"conv1.weight": torch.zeros(1)}, named_config("cct_2_3x2"))


def test_sine_positions_are_recomputed_at_another_size() -> None:
    state = build_model(named_config("cvt_2_4_sine"), seed=0).state_dict()
    config = named_config("cvt_2_4_sine", image_size=48)
    model, conversion = taken(state, config)
    assert is_sine(model.classifier.positional_emb)
    assert conversion.resized == ()


def test_half_precision_is_converted_to_float32() -> None:
    state = {name: value.half() for name, value in build_model(named_config("cct_2_3x2"), seed=0).state_dict().items()}
    _, conversion = taken(state, named_config("cct_2_3x2"))
    assert {tensor.dtype for tensor in conversion.tensors.values()} == {torch.float32}


@pytest.mark.parametrize(("name", "layers"), [("cct_4_3x2", 4), ("vit_lite_2_4", 2), ("vit_s_16", 12)])
def test_depth_counts_the_blocks_from_the_images_to_the_head(name: str, layers: int) -> None:
    config = named_config(name)
    with torch.device("meta"):
        names = [key for key, _ in build_model(config).named_parameters()]
    depths = {key: depth_of(key, config) for key in names}
    assert set(depths.values()) == set(range(layers + 2))
    first = {"tokenizer", "conv_proj", "class_token", "class_emb", "positional_emb", "pos_embedding"}
    assert {key for key, depth in depths.items() if depth == 0} == {key for key in names if first & set(key.split("."))}
    assert len({key for key in names if is_head(key)}) == 2
    assert all(depths[key] == layers + 1 for key in names if is_head(key))
