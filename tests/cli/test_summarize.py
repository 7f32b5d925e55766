"""`cctkit summarize`: its tables, its JSON contract and its errors, through the command line."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cctkit.catalog.models import MODELS, named_config
from cctkit.cli.app import run
from cctkit.cli.summarize import parse_bytes
from cctkit.config.settings import TrainConfig
from cctkit.engine.probe import Probe
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.models.weights import WeightsInfo, save_weights
from cctkit.summary.memory import memory_policy
from cctkit.summary.summary import summarize
from cctkit.summary.view import catalog_table, renderable
from cctkit.training.prepare import policy_of
from tests.golden_files import check_golden
from tests.probes import write_probe

FIXED = ["--device", "cpu", "--dtype", "bf16", "--attention", "chunked"]  # what a probe would choose elsewhere otherwise


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["summarize", *arguments]) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(printed(capsys, *arguments, "--json"))


def test_the_catalog_is_one_table_smallest_first(capsys: pytest.CaptureFixture[str]) -> None:
    check_golden("summarize.txt", printed(capsys, "--no-memory"))


def test_two_models_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    check_golden("summarize_two.txt", printed(capsys, "-m", "cct_6_3x1", "-m", "cct_6_3x2", "--depth", "2", "--no-memory"))


def test_the_predicted_memory_is_shown_below_torchsummarys_block(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "-m", "cct_2_3x2", "-b", "32", "--fit", "1GB", *FIXED)
    assert "predicted: batch 32, bf16, adamw, chunked attention on cpu (MB)" in out
    lines = {" ".join(words[:-1]): words[-1] for words in map(str.split, out.splitlines()) if words}
    assert lines["weights and buffers"] == "1.1"
    assert 30 < float(lines["peak"]) < 40
    assert int(lines["largest batch that fits"].replace(",", "")) > 500
    assert "predicted, unmeasured" in printed(capsys, "-m", "cct_2_3x2", "--device", "cuda")


def test_the_catalogs_json_has_every_model_of_32_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    document = as_json(capsys, "--no-memory")
    assert document["schema_version"] == 1
    assert {row["model"] for row in document["models"]} == {name for name in MODELS if MODELS[name].image_size == 32}
    counted = [row["params"]["total"] for row in document["models"]]
    assert counted == sorted(counted)
    assert all(row["memory"] is None for row in document["models"])


def test_the_json_keeps_its_contract(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = as_json(capsys, "-m", "cct_6_3x1", "--batch-size", "32", "--optimizer", "muon", "--fit", "2G", *FIXED)["models"]
    layers, memory, block = row.pop("layers"), row.pop("memory"), row.pop("torchsummary")
    assert layers[0] == {
        "layer": "Conv2d-1",
        "output_shape": [-1, 256, 32, 32],
        "params": 6912,
        "trainable": True,
        "path": "tokenizer.conv_layers.0.0",
        "depth": 2,
    }
    assert len(layers) == 94
    assert block == {
        "total_params": 3191397,
        "trainable_params": 3191397,
        "non_trainable_params": 0,
        "input_mb": 3 * 32 * 32 * 4 / 2**20,
        "forward_backward_pass_mb": pytest.approx(69.50, abs=0.005),
        "params_mb": 3191397 * 4 / 2**20,
        "estimated_total_mb": pytest.approx(81.69, abs=0.005),
    }
    assert block["forward_backward_pass_mb"] != 69.5  # unrounded
    assert {key: memory[key] for key in ("device", "dtype", "optimizer", "attention", "batch_size")} == {
        "device": "cpu",
        "dtype": "bf16",
        "optimizer": "muon",
        "attention": "chunked",
        "batch_size": 32,
    }
    parts = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
    assert memory["weights_bytes"] == memory["gradients_bytes"] == 3256933 * 4
    assert all(0 < memory[part] < memory["peak_bytes"] for part in parts)
    assert row.pop("fit")["limit_bytes"] == 2 * 2**30
    assert row == {
        "model": "cct_6_3x1",
        "image_size": [32, 32],
        "num_classes": 100,
        "batch_size": 32,
        "params": {
            "total": 3256933,
            "trainable": 3256933,
            "frozen": 0,
            "without_a_layer": {"classifier.positional_emb": 65536},
        },
        "macs": 1013867520,
        "macs_without_attention": 812475392,
    }


def test_classes_and_image_size_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = as_json(capsys, "-m", "cct_2_3x2", "--num-classes", "7", "--image-size", "48x32", "--no-memory")["models"]
    assert (row["image_size"], row["num_classes"]) == ([48, 32], 7)
    assert row["layers"][-1]["output_shape"] == [-1, 7]
    assert row["torchsummary"]["input_mb"] == 3 * 48 * 32 * 4 / 2**20


def test_a_vit_of_any_geometry_is_given_by_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """The report's first try, of which it says 1.56 M parameters; 36 pixels, which a patch of 6 divides."""
    flags = ["--num-layers", "8", "--embed-dim", "64", "--num-heads", "4", "--patch-size", "6", "--image-size", "36"]
    (row,) = as_json(capsys, "-m", "vit", *flags, "--no-memory")["models"]
    block = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 256 + 256 + 64 + 4 * 64  # attention, MLP and two norms, with their biases
    assert row["params"]["total"] == 8 * block + (3 * 36 * 64 + 64) + 64 + 37 * 64 + 2 * 64 + 64 * 100 + 100 == 415908


def test_the_model_of_a_weights_file_is_summarized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = named_config("cct_2_3x2", num_classes=3, image_size=16, embed_dim=64)
    info = WeightsInfo(
        model=config,
        class_names=("a", "b", "c"),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        resize_mode="crop",
        dataset={"name": "mine", "named": False, "fingerprint": "f", "split_seed": None, "val_fraction": 0.0},
        recipe=None,
        metrics={},
    )
    save_weights(tmp_path / "w.safetensors", tensors=build_model(config).state_dict(), info=info)
    (row,) = as_json(capsys, "--weights", str(tmp_path / "w.safetensors"), "--no-memory")["models"]
    assert (row["model"], row["image_size"], row["num_classes"]) == ("cct_2_3x2", [16, 16], 3)
    assert row["params"]["total"] == sum(weight.numel() for weight in build_model(config).parameters())


def test_a_summary_prints_itself_plain_and_rich() -> None:
    summary = summarize(named_config("cct_2_3x2", num_classes=10), memory=False)
    assert "Total params" in str(summary)
    assert repr(summary) == str(summary)
    assert "\x1b" not in str(summary)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    console.print(summary)
    assert "Total params" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("measured", "flags", "attention"),
    [
        ("fused", [], "fused"),  # the recipe by default, `fast` on a CPU, drops no attention weights
        ("fused", ["--attention-dropout", "0.1"], "chunked"),
        ("plain", ["--attention-dropout", "0.1"], "plain"),
        ("fused", ["--attention", "plain"], "plain"),
    ],
)
def test_the_memory_is_predicted_for_what_train_takes_with_the_same_settings(
    measured: str,
    flags: list[str],
    attention: str,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CCTKIT_CACHE", str(write_probe(tmp_path, f"{precision},{measured}")))
    (row,) = as_json(capsys, "-m", "cct_2_3x2", "-b", "8", "--device", "cpu", *flags)["models"]
    assert (row["memory"]["attention"], row["memory"]["dtype"]) == (attention, precision)
    rates = {"attention_dropout": 0.1 if "--attention-dropout" in flags else 0.0, "drop_path": 0.0}
    if "--attention" not in flags:
        config = TrainConfig.from_flat({"model": "cct_2_3x2", "device": "cpu", **rates})
        assert policy_of(config).attention == attention
    policy = memory_policy(device="cpu", dtype=precision, attention=attention)
    memory = summarize(named_config("cct_2_3x2", num_classes=100, **rates), batch_size=8, policy=policy).memory
    assert memory is not None
    assert row["memory"] == dataclasses.asdict(memory)


def test_the_threads_of_training_are_those_that_the_cpu_is_measured_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_to: list[int] = []
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch, "get_num_threads", lambda: set_to[-1] if set_to else 1)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    answer = {1: "float32", 3: "bf16"}
    monkeypatch.setattr(
        "cctkit.engine.probe.measure",
        lambda: Probe(precision=answer[torch.get_num_threads()], attention="plain", attention_with_dropout="plain"),  # type: ignore[arg-type]
    )
    for flags, dtype in (([], "float32"), (["--threads", "3"], "bf16")):
        (row,) = as_json(capsys, "-m", "cct_2_3x2", "--device", "cpu", *flags)["models"]
        assert row["memory"]["dtype"] == dtype


def test_fp32_is_float32(capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = as_json(capsys, "-m", "cct_2_3x2", "--dtype", "fp32", "--attention", "plain", "-b", "2")["models"]
    assert model["memory"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("text", "expected"), [("8GB", 8 * 2**30), ("8 gib", 8 * 2**30), ("500M", 500 * 2**20), ("1.5k", 1536), ("77 b", 77)]
)
def test_sizes_are_parsed_in_the_usual_spellings(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0B", "8PB", "nan", "1e9"])
def test_an_invalid_size_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="expected a size"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["8", "1.5", "1073741824"])
def test_a_size_without_a_unit_is_an_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["summarize", "--fit", text]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: '{text}' has no unit",
        "  in: --fit",
        f"  try: --fit {text}GB, or {text}MB",
    ]


@pytest.mark.parametrize("name", ["resnet18", "regnet_x_400mf"])
def test_a_model_of_torchvisions_has_torchvisions_figures(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from torchvision.models import get_model_weights

    published = get_model_weights(name).DEFAULT.meta
    (row,) = as_json(capsys, "-m", name, "--num-classes", "1000", "--no-memory")["models"]
    assert (row["model"], row["image_size"], row["num_classes"]) == (name, [224, 224], 1000)
    assert row["params"]["total"] == published["num_params"]
    assert row["macs"] / 1e9 == pytest.approx(published["_ops"], rel=0.01)  # theirs leaves the pooling's additions out


def test_the_image_size_of_a_model_of_torchvisions_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    row, ours = as_json(capsys, "-m", "resnet18", "-m", "cct_2_3x2", "--image-size", "64", "--no-memory")["models"]
    assert (row["image_size"], ours["image_size"]) == ([64, 64], [64, 64])
    assert row["layers"][0]["output_shape"] == [-1, 64, 32, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "cct_6_3x3x"], "unknown model"),
        (["-m", "resnet19"], "did you mean resnet1"),
        (["-m", "xyzzy"], "'xyzzy', here and in torchvision"),
        (["-m", "resnet18", "--embed-dim", "64"], "--embed-dim applies only to the models of cctkit"),
        (["-m", "vit_lite_6_4", "--image-size", "30"], "does not divide"),
        (["--device", "tpu"], "expected one of: auto, cpu, cuda, mps"),
        (["--optimizer", "sgd"], "sgd"),
        (["--fit", "8GB", "--no-memory"], "--no-memory"),
        (["--batch-size", "0"], "--batch-size"),
        (["--threads", "0"], "--threads"),
        (["--weights", "w.safetensors", "--num-layers", "3"], "the weights file sets the model's sizes"),
        (["--weights", "nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_bad_input_is_refused_in_three_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["summarize", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3


def test_on_a_narrow_terminal_no_figure_is_cut() -> None:
    policy = memory_policy(device="cpu", dtype="bf16", attention="chunked")
    names = ("cct_2_3x2", "cvt_6_4", "vit_lite_6_4", "cct_6_3x1")
    summaries = [summarize(named_config(name), policy=policy, fit_bytes=2**32, batch_size=8) for name in names]
    tables = {width: (renderable(*summaries, width=width), catalog_table(summaries, width=width)) for width in (60, 80)}
    for width, table in ((width, table) for width, both in tables.items() for table in both):
        console = Console(width=width, file=io.StringIO())
        console.print(table)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        words = set(text.split())
        for summary in summaries:
            assert {summary.model, f"{summary.params:,}", f"{summary.fitting_batch:,}"} <= words
            assert summary.memory is not None
            assert f"{summary.memory.peak_bytes / 2**20:,.1f}" in words
