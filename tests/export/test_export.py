"""`cctkit export`: the file agrees with torch or is not written; `cctkit eval` takes it; it says what comes before it."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cctkit.cli.app import run
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.preprocess import Preprocess
from cctkit.errors import StoppedError, UserError
from cctkit.evaluation.load import load, load_trained
from cctkit.evaluation.source import EvalConfig, evaluate_source
from cctkit.export.export import ExportConfig, export_onnx
from cctkit.export.verify import compare
from cctkit.models.onnx_file import read_onnx
from cctkit.runs.predictions import read_predictions
from tests.conftest import write_images
from tests.export.conftest import CLASSES, TEMPERATURE, Exported
from tests.test_documented_files import SECTIONS, named, row_of

GraphMade = Callable[[Callable[[Any], None]], None]


def metadata_of(path: Path) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path)
    return {
        key: value if key.endswith("digest") else json.loads(value)
        for key, value in session.get_modelmeta().custom_metadata_map.items()
    }


def exported_again(exported: Exported, output: Path, *, verify: bool = True) -> list[str]:
    said: list[str] = []
    config = ExportConfig(data=DataConfig(dataset=str(exported.images) if verify else None), verify=verify)
    export_onnx(exported.weights, output, config, notify=said.append, progress=lambda *_: None)
    return said


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_any_number_of_raw_images_goes_in_and_logits_and_probabilities_come_out(exported: Exported) -> None:
    session = onnxruntime.InferenceSession(exported.onnx)
    model, _ = load(exported.weights)
    for number in (1, 2, 7):
        images = np.random.default_rng(number).integers(0, 256, (number, 16, 20, 3), dtype=np.uint8)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor(
            [0.2, 0.25, 0.3]
        ).view(3, 1, 1)
        x = torch.nn.functional.interpolate(x, size=(32, 40), mode="bilinear", align_corners=False)
        with torch.inference_mode():
            expected = model(x)
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(probabilities), (expected / TEMPERATURE).softmax(dim=1), rtol=0, atol=1e-5)


def test_the_file_says_what_it_is_and_what_comes_before_it(exported: Exported) -> None:
    metadata = metadata_of(exported.onnx)
    _, info = load(exported.weights)
    assert metadata["cctkit.classes"] == list(CLASSES)
    assert metadata["cctkit.weights_digest"] == info.digest
    assert metadata["cctkit"]["dataset"] == dict(info.dataset)
    assert metadata["cctkit.preprocessing"] == {
        "schema_version": 1,
        "frame": "first",
        "exif_orientation": "applied",
        "mode": "RGB",
        "transparency": "over white",
        "grey_16_bit": "value // 256",
        "crop": "center",
        "resize_filter": "bilinear",
        "antialias": True,
        "resize": "Pillow: image.resize((width, height), Image.Resampling.BILINEAR, box=box)",
        "size": [16, 20],
        "dtype": "uint8",
        "layout": "NHWC",
        "in_graph": {
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
            "image_size": [32, 40],
            "upsampling": "bilinear",
            "temperature": 0.8,
            "probabilities": "softmax(logits / temperature)",
        },
    }


def test_what_the_comparison_found_is_printed_and_stored(exported: Exported) -> None:
    found = metadata_of(exported.onnx)["cctkit.verification"]
    assert found == exported.printed["verification"]
    split = load_dataset(DataConfig(dataset=str(exported.images), image_size=(16, 20))).test
    assert split is not None
    images = split.take(np.arange(len(split))).permute(0, 2, 3, 1).numpy()
    (logits,) = onnxruntime.InferenceSession(exported.onnx).run(["logits"], {"images": images})
    top1 = 100 * float((logits.argmax(axis=1) == split.labels).mean())
    assert (found["num_images"], found["split"], found["verified"]) == (80, "test", True)
    assert found["top1_percent"] == found["torch_top1_percent"] == pytest.approx(top1)
    assert found["top1_interval_percent"][0] < top1 < found["top1_interval_percent"][1]
    assert (found["decisions_changed"], found["close_decisions_changed"], found["margin"]) == (0, 0, 0.001)
    assert 0 < found["max_difference"] < 1e-4


def test_the_file_names_no_code_of_this_machine(exported: Exported) -> None:
    data = exported.onnx.read_bytes()
    assert b".py" not in data
    assert str(Path(torch.__file__).parents[1]).encode() not in data
    assert str(exported.images.parent).encode() not in data


def test_equal_weights_give_equal_bytes(exported: Exported, graph_made: GraphMade, tmp_path: Path) -> None:
    exported_again(exported, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.onnx.read_bytes()


def test_eval_of_the_file_gives_the_figures_of_the_weights(exported: Exported, tmp_path: Path) -> None:
    results, logits = [], []
    for source in (exported.weights, exported.onnx):
        saved = tmp_path / f"{source.suffix}.safetensors"
        config = EvalConfig(data=DataConfig(dataset=str(exported.images)), precision="float32", save_predictions=saved)
        results.append(evaluate_source(source, config, notify=lambda _: None, progress=lambda *_: None))
        logits.append(read_predictions(saved).logits)
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-4)
    for key in ("loss", "ece", "calibrated_loss", "calibrated_ece"):
        assert results[1].pop(key) == pytest.approx(results[0].pop(key), abs=1e-5)
    del results[0]["images_per_s"], results[1]["images_per_s"]
    assert results[1] == results[0]


def test_smaller_images_of_another_data_set_enter_the_file_as_image_files_would(exported: Exported, tmp_path: Path) -> None:
    write_images(tmp_path / "small", {"ant": 4, "bee": 4}, size=(10, 8))
    loaded = load_trained(exported.onnx)
    file = str(tmp_path / "small" / "ant" / "0.png")
    small = torch.tensor(Preprocess(stored_size=(8, 10)).load(file))[None]
    assert torch.equal(loaded.preprocess.to_input(small, channels_last=True)[0], torch.tensor(loaded.preprocess.load(file)))
    config = EvalConfig(data=DataConfig(dataset=str(tmp_path / "small")))
    result = evaluate_source(exported.onnx, config, notify=lambda _: None, progress=lambda *_: None)
    assert result["num_images"] == 8


def negated_bias(proto: Any) -> None:
    (bias,) = (each for each in proto.graph.initializer if each.name.endswith("fc.bias"))
    bias.raw_data = (5 - np.frombuffer(bias.raw_data, dtype=np.float32)).tobytes()


def nearest_for_bilinear(proto: Any) -> None:
    (mode,) = (a for node in proto.graph.node if node.op_type == "Resize" for a in node.attribute if a.name == "mode")
    mode.s = b"nearest"


def test_probabilities_without_the_temperature_are_not_written(
    exported: Exported, graph_made: GraphMade, tmp_path: Path
) -> None:
    def without(proto: Any) -> None:
        (softmax,) = (node for node in proto.graph.node if "probabilities" in node.output)
        softmax.input[0] = "logits"

    graph_made(without)
    assert "no file was written" in error_of(lambda: exported_again(exported, tmp_path / "m.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [negated_bias, nearest_for_bilinear])
def test_a_graph_that_decides_otherwise_is_not_written(
    change: Callable[[Any], None], exported: Exported, graph_made: GraphMade, tmp_path: Path
) -> None:
    graph_made(change)
    message = error_of(lambda: exported_again(exported, tmp_path / "m.onnx"))
    assert "differ in the class of" in message
    assert "no file was written" in message
    assert list(tmp_path.iterdir()) == []


def test_a_graph_for_one_size_of_batch_is_not_written(exported: Exported, graph_made: GraphMade, tmp_path: Path) -> None:
    def fix(proto: Any) -> None:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 80  # all of the test images at once

    graph_made(fix)
    assert "onnxruntime cannot run this graph" in error_of(lambda: exported_again(exported, tmp_path / "m.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_export_leaves_nothing(exported: Exported, graph_made: GraphMade, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "writing":
            raise StoppedError(2)

    config = ExportConfig(data=DataConfig(dataset=str(exported.images)))
    with pytest.raises(StoppedError):
        export_onnx(exported.weights, tmp_path / "m.onnx", config, notify=lambda _: None, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_without_images_nothing_is_written_unless_no_verify_says_so(
    exported: Exported, graph_made: GraphMade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.onnx"
    assert run(["export", "--model", str(exported.weights), "-o", str(output), "-q"]) == 2
    said = capsys.readouterr().err
    assert "no images to compare the exported model on: the weights come from the folder images" in said
    assert "--no-verify" in said
    assert not output.exists()
    assert run(["export", "--model", str(exported.weights), "-o", str(output), "-q", "--no-verify"]) == 0
    assert "not with torch: --no-verify" in capsys.readouterr().out
    assert metadata_of(output)["cctkit.verification"] == {"verified": False}
    assert "--no-verify" in str(load_trained(output).notice)
    assert load_trained(exported.onnx).notice is None


def test_the_command_prints_what_the_comparison_found(
    exported: Exported, graph_made: GraphMade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "export",
        "--model",
        str(exported.weights),
        "--dataset",
        str(exported.images),
        "-q",
        "-o",
        str(tmp_path / "m.onnx"),
    ]
    assert run(words) == 0
    printed = capsys.readouterr().out
    top1 = exported.printed["verification"]["top1_percent"]
    for line in (
        "with torch on images, test, 80 images",
        "0   and 0 where",
        f"{top1:.2f}%   95% interval",
        "(batch, 16, 20, 3)",
        "logits, probabilities with the temperature 0.8",
    ):
        assert line in printed
    (tmp_path / "m.onnx").rename(tmp_path / "first.onnx")
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in ("model", "bytes", "verification", "weights_digest")} == {
        key: exported.printed[key] for key in ("model", "bytes", "verification", "weights_digest")
    }
    assert run(words) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.pt", "end in .onnx"), ("no/such/m.onnx", "no directory"), ("there.onnx", "nothing is overwritten")],
)
def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "there.onnx").touch()
    config = ExportConfig(data=DataConfig())
    assert message in error_of(
        lambda: export_onnx(tmp_path / "w", tmp_path / name, config, notify=lambda _: None, progress=lambda *_: None)
    )


def test_missing_packages_are_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else known(name))
    config = ExportConfig(data=DataConfig())
    message = error_of(
        lambda: export_onnx(tmp_path / "w", tmp_path / "m.onnx", config, notify=lambda _: None, progress=lambda *_: None)
    )
    assert message == "not installed: onnxscript; cctkit export; pip install onnx onnxscript onnxruntime"


def test_without_onnxruntime_the_file_names_the_extra(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert error_of(lambda: read_onnx(exported.onnx)).startswith("onnxruntime is not installed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "{onnx}", "--precision", "bf16"], "float32 on the CPU"),
        (["eval", "{onnx}", "--device", "cuda"], "float32 on the CPU"),
        (["export", "--model", "{onnx}", "-o", "{new}"], "ONNX file already"),
        (["export", "--model", "{weights}", "-o", "{new}", "--no-verify", "--dataset", "{images}"], "--no-verify leaves out"),
        (["eval", "no-such.onnx"], "no such ONNX file"),
    ],
)
def test_what_does_not_apply_is_an_error(
    words: list[str], message: str, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"onnx": exported.onnx, "weights": exported.weights, "images": exported.images, "new": tmp_path / "m.onnx"}
    words = [word.format(**places) for word in words]
    assert run(words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_flipped_bit_is_taken_for_right(exported: Exported, tmp_path: Path) -> None:
    data = exported.onnx.read_bytes()
    draws = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    for place in [0, len(data) // 2, *draws.integers(len(data), size=20), *(len(data) - 1 - draws.integers(101, size=30))]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(draws.integers(8))
        path.write_bytes(flipped)
        try:
            assert read_onnx(path).notice  # where the digest is no longer recognised as one
            assert place >= len(data) - 101
        except UserError:
            pass


def test_a_file_that_another_program_wrote_anew_is_used_and_said_to_be_changed(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.onnx)
    model.producer_name = "another program"
    onnx.save(model, tmp_path / "m.onnx")
    found = read_onnx(tmp_path / "m.onnx")
    assert (found.info, found.is_intact) == (read_onnx(exported.onnx).info, False)
    assert "not as cctkit export wrote it" in str(found.notice)


def test_files_of_other_programs_are_refused(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    assert "onnxruntime cannot open this file" in error_of(lambda: read_onnx(path))
    model = onnx.load(exported.onnx)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert "is not cctkit's" in error_of(lambda: read_onnx(path))
    model = onnx.load(exported.onnx)
    (classes,) = (each for each in model.metadata_props if each.key == "cctkit")
    classes.value = classes.value.replace('"stored_size": [16, 20]', '"stored_size": [8, 10]')
    onnx.save(model, path)
    assert "expected" in error_of(lambda: read_onnx(path))
    assert "no torch model" in error_of(lambda: load(exported.onnx))


def test_a_changed_class_counts_by_how_close_the_two_highest_logits_were() -> None:
    reference = torch.tensor([[1.0, 0.0], [0.5, 0.5005], [3.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    found = torch.tensor([[1.0, 0.25], [0.5, 0.4], [2.0, 3.0], [0.0, float("nan")], [1.0, 0.0]])
    assert compare(reference, found) == (1.0, 2, 1)  # rows 2 and 3; row 1 was within 0.001
    assert compare(reference, reference) == (0.0, 0, 0)
    assert compare(torch.full((3, 2), float("nan")), torch.zeros(3, 2)) == (float("inf"), 3, 0)


def test_the_keys_of_the_printed_json_and_of_the_metadata_are_those_listed(exported: Exported) -> None:
    assert exported.printed.keys() - {"schema_version"} == named(row_of("export"))
    metadata = metadata_of(exported.onnx)
    contract, verification = metadata["cctkit.preprocessing"], metadata["cctkit.verification"]
    listed = re.findall(r"^\| (`.*?) \|", SECTIONS["The ONNX file"], re.MULTILINE)
    expected = metadata.keys() | contract.keys() | verification.keys()
    assert expected - {"schema_version", "verified"} == {name for row in listed for name in named(row)}
    assert contract["in_graph"].keys() <= named(SECTIONS["The ONNX file"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cct_2_3x2", "cct_2_7x2_sine", "cvt_2_4", "vit_lite_2_4", "tct_3_2", "vit_s_16"])
def test_every_family_is_exported(name: str, tmp_path: Path) -> None:
    from cctkit.catalog.models import named_config
    from cctkit.models.build import build_model
    from cctkit.models.weights import WeightsInfo, save_weights
    from cctkit.training.result import dataset_info

    size = (16, 32)
    for number, part in enumerate(("train", "test")):
        write_images(tmp_path / "images" / part, {"cat": 8, "dog": 8}, size=(32, 16), seed=number)
    dataset = load_dataset(DataConfig(dataset=str(tmp_path / "images"), image_size=size))
    config = named_config(name, num_classes=2, image_size=size)
    info = WeightsInfo(
        model=config,
        class_names=dataset.class_names,
        mean=dataset.mean,
        std=dataset.std,
        resize_mode="squash",
        dataset=dataset_info(dataset),
        recipe=None,
        metrics={},
    )
    save_weights(tmp_path / "w.safetensors", tensors=build_model(config, seed=0).state_dict(), info=info)
    options = ExportConfig(data=DataConfig(dataset=str(tmp_path / "images")))
    said = export_onnx(
        tmp_path / "w.safetensors", tmp_path / "m.onnx", options, notify=lambda _: None, progress=lambda *_: None
    )
    assert said["verification"]["max_difference"] < 1e-4
    assert said["preprocessing"]["crop"] is None
    assert said["preprocessing"]["in_graph"]["temperature"] is None
    assert said["preprocessing"]["in_graph"]["probabilities"] == "softmax(logits)"
