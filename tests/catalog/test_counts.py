"""The closed-form counts are the published ones, the built models', and torch's flop counter's."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cctkit.catalog.counts import count
from cctkit.catalog.models import MODELS, named_config
from cctkit.models.build import build_model

# Weights and weights without embeddings for 100 classes, 1e9 multiply-adds with the attention products for 10: in closed
# form by hand of the models of SHI-Labs/Compact-Transformers, examples/README.md.
PUBLISHED = {
    "vit_lite_6_4": (3213668, 3196772, 0.218),
    "vit_lite_7_4": (3740004, 3723108, 0.254),
    "cvt_6_4": (3213413, 3197029, 0.215),
    "cvt_7_4": (3739749, 3723365, 0.250),
    "cct_2_3x2": (295333, 287141, 0.035),
    "cct_4_3x2": (493733, 485541, 0.050),
    "cct_6_3x2": (3350053, 3333669, 0.253),
    "cct_7_3x2": (3876389, 3860005, 0.289),
    "cct_6_3x1": (3256933, 3191397, 1.014),
    "cct_7_3x1": (3783269, 3717733, 1.182),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    counts = count(named_config(name, num_classes=100))
    weights, without_embeddings, gmacs = PUBLISHED[name]
    assert (counts.weights, counts.without_embeddings) == (weights, without_embeddings)
    assert round(count(named_config(name, num_classes=10)).macs / 1e9, 3) == gmacs


# Dosovitskiy et al. 2021, table 1, in millions, with heads of ImageNet-21k left out; torchvision's documentation, GFLOPS
# of the weights at 224 x 224 (multiply-adds).
VITS = {
    "vit_b_16": (86, 17.56),
    "vit_b_32": (86, 4.41),
    "vit_l_16": (307, 61.55),
    "vit_l_32": (307, 15.38),
    "vit_h_14": (632, 167.29),
}


@pytest.mark.parametrize("name", VITS)
def test_the_vits_are_those_of_the_papers_table(name: str) -> None:
    counts = count(named_config(name))
    millions, gmacs = VITS[name]
    assert counts.weights / 1e6 == pytest.approx(millions, rel=0.03)
    assert counts.macs / 1e9 == pytest.approx(gmacs, rel=0.002)


CASES = [
    *((name, {}) for name in MODELS),
    ("cct_6_3x1_none", {"image_size": (48, 32)}),
    ("cct_3_5x3", {"embed_dim": 96, "num_heads": 3, "mlp_ratio": 1.5, "image_size": (57, 40), "num_classes": 3}),
    ("tct_1_3x4", {"embed_dim": 80, "conv_dim": 40, "attention_dim": 48, "image_size": (33, 47), "num_classes": 7}),
    ("tct_0_1", {"positional_embedding": "learnable", "image_size": (8, 9), "num_stem_blocks": 0}),
    ("tct_1_1x2_c100", {"num_stem_blocks": 3, "stem_dim": 24, "image_size": (17, 18)}),
    ("vit_lite_2_8_sine", {"image_size": (8, 48)}),
    ("vit", {"num_layers": 8, "embed_dim": 64, "num_heads": 4, "patch_size": 6, "image_size": (36, 30)}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_counts_are_those_of_the_built_model(name: str, options: dict[str, object]) -> None:
    config = named_config(name, **options)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = build_model(config)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *config.image_size))
    weights = {key: weight.numel() for key, weight in model.named_parameters()}
    embeddings = ("positional_emb", "class_emb", "pos_embedding", "class_token")
    counts = count(config)
    assert counts.weights == sum(weights.values())
    assert counts.weights - counts.without_embeddings == sum(n for key, n in weights.items() if key.endswith(embeddings))
    assert counts.macs == counter.get_total_flops() / 2
