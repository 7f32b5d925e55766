"""`cctkit card`: a finished run as a folder to share, which every command takes as it takes the run."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

import cctkit
from cctkit.cli.app import run
from cctkit.errors import UserError
from cctkit.hub.card import escaped
from cctkit.hub.folder import write_hub_folder
from cctkit.models.onnx_file import VERIFICATION_KEY, sealed_onnx
from cctkit.models.weights import HEADER_KEY, header_of
from tests.conftest import write_images

NAMES = {"cat": 12, "dog | *x*": 12, "=fish": 12}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images and a finished run on it."""
    folder = tmp_path_factory.mktemp("card")
    write_images(folder / "images", NAMES)
    cctkit.fit(dataset=str(folder / "images"), model="cct_2_3x1", image_size=8, epochs=2, output=folder / "run", threads=1)
    return folder / "images", folder / "run"


def written(trained: tuple[Path, Path], output: Path, **options: Any) -> Path:
    write_hub_folder(trained[1], output, onnx=options.get("onnx"), notify=lambda _: None)
    return output


def write_onnx(path: Path, of: Path, **header: Any) -> None:
    """A small graph with the metadata of an export of the run `of`; `header`: other values in it."""
    _, info = cctkit.load(of)
    classes = len(info.class_names)
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 18]>
        graph (uint8[batch, 8, 8, 3] images) => (float[batch, {classes}] logits, float[batch, {classes}] probabilities) {{
            pixels = Cast <to = 1> (images)
            shape = Constant <value_ints = [-1, 192]> ()
            flat = Reshape (pixels, shape)
            parts = Constant <value_ints = [{classes}, {192 - classes}]> ()
            logits, rest = Split <axis = 1> (flat, parts)
            probabilities = Softmax (logits)
        }}""")
    onnx.helper.set_model_props(
        model,
        {
            HEADER_KEY: json.dumps({**header_of(info), "digest": info.digest, **header}),
            VERIFICATION_KEY: json.dumps({"verified": True}),
        },
    )
    path.write_bytes(sealed_onnx(model.SerializeToString()))


def front_matter(card: str) -> dict[str, Any]:
    """Its lines are keys with values in JSON, which is YAML."""
    lines = card.split("---\n")[1].splitlines()
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines)}


def test_the_folder_has_the_hubs_layout_and_its_card_the_runs_figures(trained: tuple[Path, Path], tmp_path: Path) -> None:
    output = written(trained, tmp_path / "new" / "model")
    assert sorted(path.name for path in output.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (output / "model.safetensors").read_bytes() == (trained[1] / "weights.safetensors").read_bytes()
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {str(index): name for index, name in enumerate(sorted(NAMES))}
    assert config["model"]["family"] == "cct"
    result = json.loads((trained[1] / "result.json").read_text())
    card = (output / "README.md").read_text(encoding="utf-8")
    (entry,) = front_matter(card)["model-index"]
    (metric,) = entry["results"][0]["metrics"]
    assert metric["value"] == result["top1_percent"] / 100
    low, high = result["top1_interval_percent"]
    assert f"| {result['top1_percent']:.2f}% |" in card
    assert f"| {low:.2f} to {high:.2f}% |" in card
    assert config["dataset"]["fingerprint"] in card
    assert f"{result['params']['total']:,} parameters for 3 classes" in card


def test_the_card_has_the_figures_with_the_temperature_if_there_is_one(trained: tuple[Path, Path], tmp_path: Path) -> None:
    assert "with the temperature" not in (written(trained, tmp_path / "without") / "README.md").read_text()
    shutil.copytree(trained[1], tmp_path / "run")
    values = {"temperature": 1.23456, "calibrated_loss": 0.98765, "calibrated_ece": 0.01234}
    result = json.loads((trained[1] / "result.json").read_text()) | values
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    card = (written((tmp_path, tmp_path / "run"), tmp_path / "with") / "README.md").read_text()
    for row in (
        "| temperature of the probabilities, fitted on validation images | 1.235 |",
        "| loss with the temperature | 0.9877 nats |",
        "| expected calibration error with the temperature | 0.0123 |",
    ):
        assert row in card.splitlines()


@pytest.mark.parametrize(("ranks", "program"), [(1, "cctkit"), (2, "torchrun --nproc-per-node 2 -m cctkit")])
def test_the_card_has_the_exact_command(trained: tuple[Path, Path], tmp_path: Path, ranks: int, program: str) -> None:
    env = json.loads((trained[1] / "env.json").read_text()) | {"ranks": ranks}
    env["command"] = ["train", "--dataset", "my images", "--epochs", "2"]
    copy = tmp_path / "run"
    copy.mkdir()
    for path in trained[1].iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / "env.json").write_text(json.dumps(env))
    card = (written((copy, copy), tmp_path / "m") / "README.md").read_text()
    assert f"$ {program} train --dataset 'my images' --epochs 2\n" in card


def test_names_from_outside_do_not_format_the_card(trained: tuple[Path, Path], tmp_path: Path) -> None:
    card = (written(trained, tmp_path / "model") / "README.md").read_text(encoding="utf-8")
    assert r"dog \| \*x\*" in card
    assert escaped("a\x1b[2J<script>\n# b") == r"a\\x1b\[2J\<script\>\\n\# b"
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert all(line.replace(r"\|", "").count("|") == 3 for line in rows)


def test_the_folder_evaluates_to_the_figures_of_the_run(trained: tuple[Path, Path], tmp_path: Path) -> None:
    output = written(trained, tmp_path / "model")
    of_run = cctkit.evaluate(trained[1])
    of_folder = cctkit.evaluate(output, dataset=str(trained[0]))
    for key in ("top1_percent", "top5_percent", "loss", "ece", "num_images", "worst_classes"):
        assert of_folder[key] == of_run[key]
    model, info = cctkit.load(output)
    assert (info.class_names, model.training) == (tuple(sorted(NAMES)), False)


def test_a_run_begins_from_the_folders_weights(trained: tuple[Path, Path], tmp_path: Path) -> None:
    output = written(trained, tmp_path / "model")
    cctkit.fit(
        dataset=str(trained[0]), model="cct_2_3x1", image_size=8, epochs=1, init=str(output), output=tmp_path / "run", threads=1
    )
    env = json.loads((tmp_path / "run" / "env.json").read_text())
    assert env["init"]["missing"] == []
    assert env["init"]["taken"] == len(cctkit.load(output)[0].state_dict())


def test_a_folder_that_is_not_empty_is_left_as_it_is(trained: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        written(trained, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert len(list(written(trained, tmp_path / "empty").iterdir())) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model"]


def test_a_run_that_is_not_finished_has_no_card(trained: tuple[Path, Path], tmp_path: Path) -> None:
    begun = tmp_path / "run"
    begun.mkdir()
    for name in ("config.json", "env.json", "weights.safetensors"):
        (begun / name).write_bytes((trained[1] / name).read_bytes())
    with pytest.raises(UserError, match="only a finished run") as caught:
        written((begun, begun), tmp_path / "model")
    assert caught.value.remedy == f"finish it: cctkit train --resume {begun}"
    assert not (tmp_path / "model").exists()
    with pytest.raises(UserError, match="only a finished run"):
        written((begun, begun / "weights.safetensors"), tmp_path / "model")


def test_a_card_folder_is_not_taken_for_a_run(trained: tuple[Path, Path], tmp_path: Path) -> None:
    output = written(trained, tmp_path / "model")
    assert run(["train", "--resume", str(output)]) == 2
    with pytest.raises(UserError):
        written((output, output), tmp_path / "again")


def test_the_command_says_how_to_share_and_sends_nothing(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_onnx(tmp_path / "m.onnx", trained[1])
    words = ["card", str(trained[1]), "-o", str(tmp_path / "m"), "--onnx", str(tmp_path / "m.onnx")]
    assert run(words) == 0
    assert f"hf upload USER/NAME {tmp_path / 'm'}" in capsys.readouterr().out
    assert (tmp_path / "m" / "model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()
    assert run(words) == 2
    assert run(["card", str(trained[1]), "-o", str(tmp_path / "j"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema_version": 1,
        "output": str(tmp_path / "j"),
        "files": ["config.json", "model.safetensors", "README.md"],
    }


def test_an_onnx_file_of_other_weights_is_refused(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_onnx(tmp_path / "m.onnx", trained[1], digest="sha256:0")
    assert run(["card", str(trained[1]), "-o", str(tmp_path / "m"), "--onnx", str(tmp_path / "m.onnx")]) == 2
    assert "not of the weights of this run" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_where_nothing_can_be_written_nothing_is_left(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cctkit.hub.folder.write_synced", full)
    with pytest.raises(UserError) as caught:
        written(trained, tmp_path / "model")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("result.json", {"loss": "small"}, "loss is"),
        ("result.json", {"worst_classes": [{}]}, "an entry of worst_classes lacks class"),
        ("result.json", {"top1_interval_percent": 3.5}, "top1_interval_percent is 3.5"),
        ("result.json", {"top1_percent": 10**400}, "a figure is out of range"),
        ("result.json", {"copies_in_train": "many"}, "copies_in_train is"),
        ("env.json", {"command": 3}, "command is 3"),
        ("env.json", {"python": None}, "python is None"),
    ],
)
def test_a_run_whose_files_lack_what_a_card_needs_is_refused(
    trained: tuple[Path, Path], tmp_path: Path, file: str, change: dict[str, Any], words: str
) -> None:
    shutil.copytree(trained[1], tmp_path / "run")
    path = tmp_path / "run" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"{file} is malformed: {words}") as caught:
        written((tmp_path, tmp_path / "run"), tmp_path / "model")
    assert caught.value.where == str(path)


def test_a_loss_that_is_not_finite_and_metrics_that_are_gone_have_a_card(trained: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(trained[1], tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"loss": None, "ece": None}))
    (tmp_path / "run" / "metrics.jsonl").unlink()
    card = (written((tmp_path, tmp_path / "run"), tmp_path / "model") / "README.md").read_text()
    assert "| loss | not finite |" in card
    assert "hours of training" not in card
