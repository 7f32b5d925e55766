"""The walk: row for row what torchsummary and the report have, and what they leave out."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from cctkit.catalog.models import named_config
from cctkit.errors import UserError
from cctkit.models.build import build_model, create_model
from cctkit.summary.summary import summarize
from cctkit.summary.view import Summary
from cctkit.summary.walk import fold, walk
from tests.processes import Forked

REPORT = json.loads((Path(__file__).parents[1] / "golden" / "report_layers.json").read_text())
# Total, trainable, frozen; input, forward/backward, parameters, total in MB: the report's Table 3.
SIZES = {
    "cct_6_3x1": (3191397, 3191397, 0, "0.01", "69.50", "12.17", "81.69"),
    "cct_6_3x2": (3333669, 3333669, 0, "0.01", "16.25", "12.72", "28.98"),
}


def summary_of(name: str) -> Summary:
    return summarize(named_config(name, num_classes=100), memory=False)


@pytest.mark.parametrize("name", SIZES)
def test_the_rows_are_the_reports(name: str) -> None:
    rows = [[layer.layer, layer.output_shape, layer.params] for layer in summary_of(name).layers]
    assert rows == REPORT[name]
    assert len(rows) == {"cct_6_3x1": 94, "cct_6_3x2": 97}[name]


@pytest.mark.parametrize("name", SIZES)
def test_the_block_is_the_reports(name: str) -> None:
    block = summary_of(name).torchsummary
    assert block is not None
    sizes = (block.input_mb, block.forward_backward_pass_mb, block.params_mb, block.estimated_total_mb)
    counts = (block.total_params, block.trainable_params, block.non_trainable_params)
    assert (*counts, *(f"{size:.2f}" for size in sizes)) == SIZES[name]


def test_what_the_report_leaves_out() -> None:
    summary = summary_of("cct_6_3x1")
    assert summary.bare == (("classifier.positional_emb", 65536),)
    assert summary.params == summary.trainable_params == 3191397 + 65536 == 3256933
    assert summary.containers == 14  # the tokenizer, the classifier, six blocks and their attentions
    assert summary.containers_mb == 2 * 4 * (13 * 256 * 256 + 100) / 2**20


def torchsummary_of(model: nn.Module, size: int, capsys: pytest.CaptureFixture[str]) -> tuple[list[list[str]], list[str]]:
    """The installed torchsummary's rows and the numbers under them, as it prints them."""
    from torchsummary import summary

    summary(model, (3, size, size), device="cpu")
    printed = capsys.readouterr().out
    rows = re.findall(r"^ *(\w+-\d+) +(\[.*\]) +([\d,]+) *$", printed, re.MULTILINE)
    return [list(row) for row in rows], re.findall(r": ([\d,.]+)$", printed, re.MULTILINE)


@pytest.mark.parametrize("name", ["resnet18", "vit_lite_6_4", "cvt_7_4"])
def test_the_walk_equals_the_installed_torchsummary(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "resnet18":
        from torchvision.models import resnet18

        model, size = resnet18(), 64
    else:
        model, size = create_model(name, num_classes=100), 32
    model.layer1.requires_grad_(False) if name == "resnet18" else model.classifier.fc.requires_grad_(False)
    rows, numbers = torchsummary_of(model, size, capsys)
    summary = summarize(model, image_size=size, memory=False)
    assert [[layer.layer, str(layer.output_shape), f"{layer.params:,}"] for layer in summary.layers] == rows
    block = summary.torchsummary
    assert block is not None
    counts = (block.total_params, block.trainable_params, block.non_trainable_params)
    assert counts[2] > 0
    sizes = (block.input_mb, block.forward_backward_pass_mb, block.params_mb, block.estimated_total_mb)
    assert [*(f"{count:,}" for count in counts), *(f"{size:.2f}" for size in sizes)] == numbers


def test_the_block_is_none_if_torchsummary_raises() -> None:
    from torchsummary import summary as theirs

    model = create_model("vit", image_size=16, patch_size=8, embed_dim=32, num_layers=2, num_heads=2, num_classes=7)
    with pytest.raises(AttributeError, match="'NoneType'"):
        theirs(model, (3, 16, 16), device="cpu")
    summary = summarize(model, memory=False)
    assert summary.torchsummary is None
    assert sum(count for _, count in summary.bare) + sum(layer.params for layer in summary.layers) == summary.params
    assert "raises" in str(summary)


class Shared(nn.Module):
    """One linear layer called three times, and a branch that stays uncalled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.inside = nn.Sequential(self.linear, nn.BatchNorm1d(3))
        self.unused = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.linear(self.inside(x.mean((2, 3)))))


def test_a_shared_module_has_a_row_per_call_and_its_parameters_once() -> None:
    summary = summarize(Shared(), image_size=4, memory=False)
    rows = [(layer.layer, layer.params) for layer in summary.layers]
    assert rows == [("Linear-1", 12), ("BatchNorm1d-2", 6), ("Linear-3", 0), ("Linear-4", 0)]
    assert summary.params == 12 + 6 + 30
    assert dict(summary.bare) == {"unused.weight": 25, "unused.bias": 5}
    assert summary.macs == 3 * 9
    assert summary.torchsummary is not None
    assert summary.torchsummary.total_params == 3 * 12 + 6  # as torchsummary: every call again


def test_the_model_is_not_changed() -> None:
    model = Shared()
    model.unused.eval()
    seen: list[object] = []
    model.linear.register_forward_hook(lambda *call: seen.append(call))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    summarize(model, image_size=4, batch_size=8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [True, True, True, True, False]
    assert len(model.linear._forward_hooks) == 1
    assert not model.inside._forward_hooks
    assert not model.inside._forward_pre_hooks
    assert seen == []
    assert all(weight.grad is None and weight.device.type == "cpu" for weight in model.parameters())


def test_macs_are_the_closed_form() -> None:
    from cctkit.catalog.counts import count

    for name in ("cct_2_3x2", "cct_6_3x1", "cvt_6_4", "vit_lite_6_4", "vit_b_16"):  # one per family and tokenizer
        config = named_config(name, num_classes=100)
        with torch.device("meta"):
            model = build_model(config)
        assert walk(model, image_size=config.image_size).macs == count(config).macs, name


# The published repository's examples/README.md in G, without the attention's products; published to three digits.
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("cct_2_3x2", 0.033),
        ("cct_4_3x2", 0.046),
        ("cct_6_3x1", 0.813),
        ("cct_6_3x2", 0.241),
        ("cct_7_3x1", 0.947),
        ("cct_7_3x2", 0.275),
        ("cvt_6_4", 0.202),
        ("cvt_7_4", 0.236),
        ("vit_lite_6_4", 0.205),
        ("vit_lite_7_4", 0.239),
    ],
)
def test_macs_without_attention_are_the_published(name: str, published: float) -> None:
    walked = summary_of(name)
    assert (walked.macs - walked.macs_attention) / 1e9 == pytest.approx(published, abs=6e-4)


def test_macs_of_a_resnet_are_torchvisions() -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    published = ResNet18_Weights.IMAGENET1K_V1.meta["_ops"]  # in G
    summary = summarize(resnet18(), image_size=224, memory=False)
    assert summary.macs / 1e9 == pytest.approx(published, abs=5e-4)
    assert summary.macs_attention == 0
    assert summary.num_classes == 1000


def test_folded_rows_include_the_parameters_nested_in_them() -> None:
    layers = summary_of("cct_6_3x1").layers
    folded = fold(layers, 1)
    assert [(layer.layer, layer.params) for layer in folded] == [("Tokenizer-5", 6912), ("TransformerClassifier-94", 3184485)]
    block = next(layer for layer in fold(layers, 2) if layer.layer == "TransformerEncoderLayer-20")
    assert block.params == 512 + 196608 + 65792 + 512 + 131584 + 131328
    for depth in (1, 2, 3, 4):
        assert sum(layer.params for layer in fold(layers, depth)) == 3191397
    assert fold(layers, 9) == layers


def test_images_that_the_model_does_not_take_are_an_error() -> None:
    with pytest.raises(UserError, match="does not take 3-channel images of 4x4 pixels"):
        walk(nn.Conv2d(1, 1, 1), image_size=(4, 4))
    with pytest.raises(UserError, match="image size is not known"):
        summarize(Shared())


def test_the_largest_vit_needs_no_memory() -> None:
    """2.5 GB of weights, and activations of any batch: what the process grows by is told by itself, in KiB."""
    code = """
import resource, torch
from cctkit.catalog.models import named_config
from cctkit.summary.summary import summarize
from cctkit.summary.memory import memory_policy
import torchvision.models.vision_transformer, torch._dynamo
policy = memory_policy(device="cpu", dtype="float32", attention="plain")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
summary = summarize(named_config("vit_h_14"), batch_size=4096, policy=policy)
assert summary.memory.peak_bytes > 2**40
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    process = Forked(code=code)
    grown_kib, errors = process.communicate()
    assert process.returncode == 0, errors
    assert int(grown_kib) < 100 * 1024
