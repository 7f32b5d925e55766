"""The files of `cctkit eval`: metrics of each class as CSV, the confusion matrix as CSV and picture; nothing is overwritten."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from cctkit.cli.app import run
from cctkit.config.settings import DataConfig
from tests.conftest import write_images
from tests.evaluation.test_source import weights_of

NUMBERS = {"=cmd|x": 6, "a, b": 4, "plain": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in classes with names that CSV has to quote, and an untrained model of it."""
    root = tmp_path_factory.mktemp("eval")
    write_images(root / "images", NUMBERS)
    weights_of(DataConfig(dataset=str(root / "images")), root / "weights.safetensors")
    return root


def evaluate(place: Path, *arguments: str | Path) -> int:
    common = ["eval", place / "weights.safetensors", "--dataset", place / "images", "--split", "all", "--quiet"]
    return run([*map(str, common), "--device", "cpu", *map(str, arguments)])


def test_csv_has_the_rows_of_per_class_in_json_with_formulas_quoted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(place, "--json", "--csv", tmp_path / "classes.csv", "--confusion", tmp_path / "matrix.csv") == 0
    result = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "classes.csv").read_text(encoding="utf-8"))))
    assert [row["class"] for row in rows] == ["'=cmd|x", "a, b", "plain"]
    assert [row["class"] for row in result["per_class"]] == list(NUMBERS)
    for row, expected in zip(rows, result["per_class"], strict=True):
        values = {key: None if text == "" else float(text) for key, text in row.items() if key != "class"}
        assert values == {key: value for key, value in expected.items() if key != "class"}
    # The same counts again, from the matrix.
    heading, *lines = csv.reader(io.StringIO((tmp_path / "matrix.csv").read_text(encoding="utf-8")))
    assert heading == ["class", "'=cmd|x", "a, b", "plain", "no prediction"]
    counts = [[int(cell) for cell in line[1:]] for line in lines]
    assert [sum(line) for line in counts] == list(NUMBERS.values()) == [row["num_images"] for row in result["per_class"]]
    assert [sum(line[i] for line in counts) for i in range(3)] == [row["num_predicted"] for row in result["per_class"]]
    assert sum(counts[i][i] for i in range(3)) == pytest.approx(12 * result["top1_percent"] / 100)
    recalls = [counts[i][i] / number for i, number in enumerate(NUMBERS.values())]
    assert result["balanced_accuracy_percent"] == pytest.approx(100 * sum(recalls) / 3)


def test_the_confusion_matrix_is_written_as_every_file_that_is_named(place: Path, tmp_path: Path) -> None:
    assert evaluate(place, "--confusion", tmp_path / "matrix.png", "--confusion", tmp_path / "matrix.csv") == 0
    with Image.open(tmp_path / "matrix.png") as picture:
        assert min(picture.size) > 200
    assert (tmp_path / "matrix.csv").read_text().startswith("class,")


@pytest.mark.parametrize("flag", ["--csv", "--confusion"])
@pytest.mark.parametrize("name", ["old.csv", "dangling.csv"])
def test_nothing_is_overwritten(flag: str, name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.csv").write_text("mine")
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "elsewhere")
    assert evaluate(place, flag, tmp_path / name) == 2
    assert f"choose another {flag}" in capsys.readouterr().err
    assert (tmp_path / "old.csv").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--confusion", "matrix.txt"], "saved as .png, .svg or .pdf"),
        (["--csv", "no/such/folder.csv"], "there is no directory"),
        (["--confusion", "one.csv", "--csv", "one.csv"], "named twice"),
        (["--confusion", "one.png", "--confusion", "./one.png"], "named twice"),
    ],
    ids=str,
)
def test_a_file_that_cannot_be_written_is_an_error_before_any_work(
    arguments: list[str],
    words: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(place, *arguments) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
