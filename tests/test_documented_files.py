"""docs/reference/files.md lists the keys and tensors that are written, and no others."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from cctkit.cli.app import run
from tests.conftest import write_images

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}


def named(text: str) -> set[str]:
    return set(re.findall(r"`([a-z0-9_.]+)`", text))


def row_of(command: str) -> str:
    (row,) = re.findall(rf"^\| `cctkit {command}` \|.*$", SECTIONS["The other `--json`"], re.MULTILINE)
    return str(row)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of images, in `images`, and a run on them, in `run`, that has seen them for an epoch."""
    place = tmp_path_factory.mktemp("documented")
    write_images(place / "images", {"dark": 12, "light": 12})
    settings = ["--epochs=1", "--batch-size=8", "--image-size=16", "--val-fraction=0.2", "--test-every-epoch", "--quiet"]
    assert run(["train", str(place / "images"), "--output", str(place / "run"), *settings]) == 0
    return place


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("command", "words", "rows"),
    [
        ("compare", ["compare"], "rows"),
        ("models", ["models", "cct_2"], "models"),
        ("recipes", ["recipes"], "recipes"),
        ("plot-lr", ["plot-lr", "--recipe", "fast", "--compare", "shi"], None),
        ("summarize", ["summarize", "--model", "cct_2_3x2", "--fit", "1GB"], "models"),
    ],
)
def test_the_keys_of_a_commands_json_are_those_listed(
    command: str, words: list[str], rows: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, *words)
    keys = found.keys() | (found[rows][0].keys() if rows else set())
    assert keys - {"schema_version"} == named(row_of(command))
    assert f"| {found['schema_version']} |" in row_of(command)


def test_the_keys_of_check_json_are_those_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cctkit.bench.suggest import Suggestion

    images = folder / "images"
    found = printed(capsys, "check", images, "--quiet", "--no-suggest")
    keys = found.keys() | found["findings"][0].keys() | {field.name for field in fields(Suggestion)}
    assert keys - {"schema_version"} == named(row_of("check"))


def test_the_keys_of_card_json_are_those_listed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "card", folder / "run", "-o", tmp_path / "model")
    assert found.keys() - {"schema_version"} == named(row_of("card"))


def test_the_keys_of_inspect_json_and_its_pictures_are_those_listed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, "inspect", folder / "run", "-o", tmp_path / "page.html", "--no-check", "--mistakes=1", "--quiet")
    assert found.keys() | found["without_data"][0].keys() == named(row_of("inspect")) | {"schema_version"}
    (listed,) = re.findall(r"^\| (.*) \| written by `cctkit inspect`", SECTIONS["The run directory"], re.MULTILINE)
    assert {Path(path).name for path in found["pictures"]} <= named(listed)
    for path in found["pictures"]:
        Path(path).unlink()


def test_the_keys_of_bench_json_are_those_listed() -> None:
    from cctkit.bench.measure import Effort, measure
    from cctkit.bench.task import Task

    task = Task(model="cct_2_3x2", device="cpu", batch_size=2, num_classes=2, image_size=(16, 16), threads=None)
    found = measure([task], num_images=1, epochs=1, effort=Effort(warm_s=0, turn_s=0, rounds=1))
    keys = found.keys() | found["rows"][0].keys() | found["run"].keys()
    assert keys - {"schema_version"} == named(row_of("bench"))


def test_the_keys_of_pack_json_and_the_tensors_of_its_file_are_those_listed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, "pack", folder / "images", "--output", tmp_path / "packed.safetensors", "--quiet")
    assert found.keys() - {"schema_version"} == named(row_of("pack"))
    text = SECTIONS["Packed files"]
    with safe_open(tmp_path / "packed.safetensors", "numpy") as file:
        header = json.loads(file.metadata()["cctkit.packed"])
        tensors = set(file.keys()) - {"padding"}
    assert header.keys() | tensors == named(text) - {"cctkit.packed", "predictions.safetensors"}
    assert f"(`schema_version` {header['schema_version']})" in text


def test_the_files_of_a_run_are_those_listed(folder: Path) -> None:
    listed = set(re.findall(r"^\| `([^`]+?)/?` \|", SECTIONS["The run directory"], re.MULTILINE))
    files = {path.name for path in (folder / "run").iterdir()}
    assert files <= listed
    assert listed - files <= {"last.safetensors", "tensorboard"}


def test_the_keys_of_a_runs_json_files_are_those_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder / "run"
    config, env, result = (json.loads((place / f"{name}.json").read_text()) for name in ("config", "env", "result"))
    text = SECTIONS["`config.json` and `env.json`"]
    assert config.keys() | env.keys() | env["policy"].keys() <= named(text)
    metrics = json.loads((place / "metrics.jsonl").read_text().splitlines()[0])
    listed = named(SECTIONS["`metrics.jsonl`"])
    assert {key for key in metrics if not key.startswith("test_")} == listed - {"metrics.jsonl"}
    again = printed(capsys, "eval", place, "--quiet")
    write_images(folder / "others", {"dark": 2, "light": 2}, seed=1)
    others = printed(capsys, "eval", place, "--dataset", folder / "others", "--quiet")
    assert result.keys() | again.keys() | others.keys() <= named(SECTIONS["Results"])


def test_the_files_of_several_seeds_and_their_keys_are_those_listed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", folder / "images", "--epochs=1", "--batch-size=8", "--image-size=8", "--quiet", "--seeds=1"]
    summary = printed(capsys, *words, "--output", tmp_path / "seeds")
    text, keys = SECTIONS["A directory of several seeds"].split("`summary.json` has")
    assert set(re.findall(r"^\| `([^`]+?)/?` \|", text, re.MULTILINE)) == {
        path.name for path in (tmp_path / "seeds").iterdir() if path.is_file() and not path.name.startswith(".")
    }
    stored = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert stored.keys() | stored["request"].keys() <= named(text)
    assert summary.keys() | summary["runs"][0].keys() == named(keys)


def test_the_headers_and_tensors_of_weights_and_predictions_are_those_listed(folder: Path) -> None:
    from cctkit.models.weights import WeightsInfo

    with safe_open(folder / "run" / "weights.safetensors", "numpy") as file:
        header = json.loads(file.metadata()["cctkit"])
    text = SECTIONS["The weights header"]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in named(row)}
    assert header.keys() <= listed
    assert {field.name for field in fields(WeightsInfo)} | {"schema_version"} == listed
    assert header["dataset"].keys() <= named(text)
    with safe_open(folder / "run" / "predictions.safetensors", "numpy") as file:
        found = set(file.keys()) | json.loads(file.metadata()["cctkit"]).keys()
    assert found <= named(SECTIONS["`predictions.safetensors`"])


def test_the_keys_and_columns_of_predict_are_those_listed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(folder / "images" / "dark" / "0.png")
    common = [image, "--model", str(folder / "run"), "--quiet", "--top", "2", "--heatmap"]
    found = printed(capsys, "predict", *common, tmp_path / "maps")
    keys, columns = SECTIONS["Predictions"].split("`--csv` has")
    assert list(found) == re.findall(r"^\| `(\w+)` \|", keys, re.MULTILINE)
    assert found["top"][0].keys() == {"class", "probability"} <= named(keys)
    assert run(["predict", *common, str(tmp_path / "more"), "--csv", str(tmp_path / "rows.csv")]) == 0
    assert set((tmp_path / "rows.csv").read_text().splitlines()[0].split(",")) == named(columns)
