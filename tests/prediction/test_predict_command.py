"""`cctkit predict`, as a user gives it."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cctkit import Classifier
from cctkit.cli.app import run
from cctkit.prediction import heatmap
from cctkit.prediction.heatmap import HeatmapFolder
from cctkit.prediction.inputs import ImageFile
from cctkit.prediction.stream import predict_files
from cctkit.runs.predictions import read_predictions
from tests.prediction.weights import info_of, write_weights


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> tuple[str, str]:
    """What `cctkit predict` prints on stdout and on stderr."""
    capsys.readouterr()
    assert run(["predict", *map(str, words)]) == code
    found = capsys.readouterr()
    return found.out, found.err


def rows_of(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed(capsys, *words, "--json", code=code)[0].splitlines()]


@pytest.fixture
def broken(trained: Path, tmp_path: Path) -> Path:
    """Two images, and five that are broken in ways of their own."""
    folder = tmp_path / "broken"
    (folder / "in").mkdir(parents=True)
    data = (trained / "images" / "dark" / "0.png").read_bytes()
    (folder / "good.png").write_bytes(data)
    (folder / "in" / "good.png").write_bytes(data)
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").touch()
    (folder / "in" / "link.png").symlink_to("nowhere")
    (folder / "text.png").write_text("no image")
    Image.new("F", (4, 4)).save(folder / "float.tif")
    return folder


def test_the_table_has_a_row_for_every_image_and_names_the_newest_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(trained / "run")
    (tmp_path / "shots").symlink_to(trained / "images" / "light")
    monkeypatch.chdir(tmp_path)
    out, err = printed(capsys, "shots/1.png", "shots/0.png", "--top", "2")
    assert err == "using the newest run, runs/mine\n"
    found = Classifier("runs/mine").predict(["shots/1.png", "shots/0.png"], top=2)
    lines = ["class  probability  image"]
    for prediction, path in zip(found, ("shots/1.png", "shots/0.png"), strict=True):
        (name, value), (other, rest) = prediction.top
        lines += [f"{name:<5}        {value:.3f}  {path}", f"{other:<5}        {rest:.3f}"]
    assert out.splitlines() == lines


def test_the_json_of_a_runs_test_images_has_the_classes_of_its_evaluation(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read_predictions(trained / "run" / "predictions.safetensors")
    paths = [str(trained / "images" / name) for name in expected.ids]
    rows = rows_of(capsys, *paths, "--model", trained / "run")
    assert [row["path"] for row in rows] == paths
    assert [row["class"] for row in rows] == [("dark", "light")[i] for i in expected.logits.argmax(axis=1)]
    exponentials = np.exp(expected.logits.astype(np.float64))
    probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).max(axis=1)
    assert [row["probability"] for row in rows] == pytest.approx(probabilities.tolist())
    assert all(row.keys() == {"path", "class", "probability", "top", "error"} for row in rows)
    assert all(row["top"] == [{"class": row["class"], "probability": row["probability"]}] for row in rows)


def test_a_broken_image_is_a_row_with_its_error_and_the_rest_goes_on(
    trained: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(capsys, broken, "--model", trained / "run", code=2)
    assert {Path(row["path"]).relative_to(broken).as_posix(): row["error"] for row in rows} == {
        "cut.png": "image file is truncated",
        "empty.jpg": "not an image in a supported format",
        "float.tif": "floating-point pixels of unknown range",
        "good.png": None,
        "in/good.png": None,
        "in/link.png": "No such file or directory",
        "text.png": "not an image in a supported format",
    }
    (alone,) = rows_of(capsys, trained / "images" / "dark" / "0.png", "--model", trained / "run")
    for row in rows:
        if row["error"] is None:
            assert row["class"] == alone["class"]
            assert row["probability"] == pytest.approx(alone["probability"], abs=1e-5)
        else:
            assert (row["class"], row["probability"], row["top"]) == (None, None, [])
    out, err = printed(capsys, broken, "--model", trained / "run", code=2)
    assert out.splitlines()[1] == f"-                   {broken}/cut.png: image file is truncated"
    assert len(out.splitlines()) == 8
    assert err.splitlines() == [
        "error: 5 of 7 images could not be read; the others are done",
        f"  in: {broken}/cut.png, ...",
        "  try: the rows say why",
    ]


def test_below_the_least_confidence_the_class_is_empty_and_the_top_stays(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = trained / "images" / "dark" / "0.png", "--model", trained / "run", "--top", "2"
    (sure,) = rows_of(capsys, *words)
    least = f"--min-confidence={sure['probability'] + 0.001:.4f}"
    (unsure,) = rows_of(capsys, *words, least)
    assert unsure == sure | {"class": None}
    out, err = printed(capsys, *words, least)
    assert [line.split()[0] for line in out.splitlines()] == ["class", "-", *(each["class"] for each in sure["top"])]
    assert err == f"1 image below --min-confidence {least.split('=')[1]}\n"
    printed(capsys, *words, least, "--csv", tmp_path / "rows.csv")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text()))
    assert (row["class"], row["class_2"]) == ("", sure["top"][1]["class"])


def test_csv_has_a_row_for_every_image_and_quotes_formula_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_weights(tmp_path / "w.safetensors", info_of("cct_2_3x2", classes=("=1+1", "@x"), size=16))
    for name in ("=cmd().png", "a,b.png"):
        Image.new("RGB", (16, 16)).save(name)
    Path("-x.png").write_text("broken")
    words = "--model", "w.safetensors", "--csv", "rows.csv", "--top", "5", "--device", "cpu"
    out, err = printed(capsys, *words, "--", "=cmd().png", "a,b.png", "-x.png", code=2)
    assert out == ""
    assert "3 rows in rows.csv" in err
    head, first, second, third = csv.reader(io.StringIO(Path("rows.csv").read_text(encoding="utf-8")))
    assert head == ["path", "class", "probability", "class_2", "probability_2", "error"]
    assert (first[0], second[0], third[0]) == ("'=cmd().png", "a,b.png", "'-x.png")
    assert {first[1], first[3]} == {"'=1+1", "'@x"}
    assert float(first[2]) + float(first[4]) == pytest.approx(1, abs=1e-5)
    assert third[1:] == ["", "", "", "", "not an image in a supported format"]


def test_nothing_that_exists_is_overwritten_and_no_file_stays_of_what_fails(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = trained / "images" / "dark" / "0.png"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("precious")
    for option, message in (
        (["--csv", tmp_path / "taken" / "precious"], "the output exists, and nothing is overwritten"),
        (["--csv", tmp_path / "none" / "x.csv"], "there is no directory"),
        (["--heatmap", tmp_path / "taken"], "the folder is not empty, and nothing is overwritten"),
        (["--heatmap", tmp_path / "taken" / "precious"], "the output exists, and nothing is overwritten"),
    ):
        assert message in printed(capsys, image, "--model", trained / "run", *option, code=2)[1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(100_000))))
    _, err = printed(capsys, image, "-", "--model", trained / "run", "--csv", tmp_path / "new.csv", code=2)
    assert "cannot read the list of images" in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken" / "precious").read_text() == "precious"


def test_paths_come_from_stdin(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = f"{trained}/images/dark/1.png\n{trained}/images/light\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    rows = rows_of(capsys, "-", "--model", trained / "run")
    assert len(rows) == 21
    assert rows[0]["path"] == f"{trained}/images/dark/1.png"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "found no image"),
        (["*.png"], "found no image"),
        (["-"], "the list of images is empty"),
        (["nowhere", "--top", "0"], "--top"),
        (["nowhere", "--min-confidence", "50"], "--min-confidence"),
    ],
)
def test_no_image_or_a_wrong_value_is_an_error(
    trained: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    out, err = printed(capsys, *words, "--model", trained / "run", code=2)
    assert message in err
    assert out == ""
    assert len(err.splitlines()) <= 3


def test_heat_maps_are_named_in_the_rows_and_change_no_prediction(
    trained: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = rows_of(capsys, broken, "--model", trained / "run", code=2)
    rows = rows_of(capsys, broken, "--model", trained / "run", "--heatmap", tmp_path / "maps", code=2)
    maps = {"good.png", "in/good.png"}
    assert [row | {"heatmap": None} for row in rows] == [row | {"heatmap": None} for row in expected]
    assert {row["heatmap"] for row in rows} == {None, *(str(tmp_path / "maps" / name) for name in maps)}
    assert {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.png")} == maps


@pytest.mark.parametrize("name", ["vit_lite_2_4", "vit_b_16"])
def test_a_model_with_a_class_token_has_no_heat_map_and_it_is_said_why(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    info = info_of(name)
    if name == "vit_b_16":
        info = replace(info, model=replace(info.model, embed_dim=12, num_layers=1, num_heads=2))
    weights = write_weights(tmp_path / "w.safetensors", info)
    image = trained / "images" / "dark" / "0.png"
    _, err = printed(capsys, image, "--model", weights, "--heatmap", tmp_path / "maps", "--device", "cpu", code=2)
    assert err.splitlines()[-3:] == [
        f"error: {name} has no sequence pooling: it classifies a class token",
        "  in: --heatmap",
        "  try: use a model of the families CCT, CVT or TCT",
    ]
    assert not (tmp_path / "maps").exists()


class Closed(io.StringIO):
    """stdout whose reader has gone, as `head` does."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_reader_that_has_enough_is_no_error(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        assert run(["predict", str(trained / "images"), "--model", str(trained / "run")]) == 0
        sys.stdout.close()  # the null device, in its place
    assert capsys.readouterr().err == ""


def test_files_are_looked_for_only_as_far_ahead_as_they_are_decoded(trained: Path) -> None:
    """So memory does not grow with their number, and a list on stdin may be as long as it likes."""
    image, given = str(trained / "images" / "dark" / "0.png"), 0

    def endless() -> Iterator[ImageFile]:
        nonlocal given
        while True:
            given += 1
            yield ImageFile(image, "0.png")

    batches = predict_files(Classifier(trained / "run"), endless())
    for number in range(1, 4):
        assert len(next(batches)) == 250
        assert given <= 250 * number + 500
    batches.close()


def test_the_logits_of_a_stream_are_those_of_the_evaluation_to_the_bit(trained: Path) -> None:
    expected = read_predictions(trained / "run" / "predictions.safetensors")
    files = [ImageFile(str(trained / "images" / name), name) for name in expected.ids]
    (batch,) = predict_files(Classifier(trained / "run"), files)
    found = [row.prediction.logits for row in batch if row.prediction is not None]
    np.testing.assert_array_equal(found, expected.logits, strict=True)


def test_a_batch_without_a_good_image_is_all_errors(trained: Path) -> None:
    files = [ImageFile("gone.png", "gone.png"), ImageFile("x", "x", "known before")]
    (batch,) = predict_files(Classifier(trained / "run"), files)
    assert [row.error for row in batch] == ["No such file or directory", "known before"]


def test_a_file_that_is_gone_before_its_heat_map_is_drawn_is_an_error_of_its_own(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(trained / "images" / "dark" / f"{i}.png") for i in (0, 1)]
    decode = heatmap.decode
    monkeypatch.setattr(heatmap, "decode", lambda path, **options: decode(path.replace("0.png", "gone.png"), **options))
    classifier = Classifier(trained / "run")
    maps = HeatmapFolder(tmp_path / "maps", info=classifier.info, preprocess=classifier.preprocess)
    (batch,) = predict_files(classifier, [ImageFile(path, Path(path).name) for path in paths], heatmaps=maps)
    assert [row.error for row in batch] == ["No such file or directory", None]
    assert [row.heatmap for row in batch] == [None, str(tmp_path / "maps" / "1.png")]


def test_an_output_that_is_not_finite_is_an_error_of_the_image(trained: Path, tmp_path: Path) -> None:
    classifier = Classifier(trained / "run")
    next(classifier.model.parameters()).data.fill_(float("nan"))
    maps = HeatmapFolder(tmp_path / "maps", info=classifier.info, preprocess=classifier.preprocess)
    (batch,) = predict_files(classifier, [ImageFile(str(trained / "images" / "dark" / "0.png"), "0.png")], heatmaps=maps)
    assert [(row.prediction, row.error, row.heatmap) for row in batch] == [(None, "the model's output is not finite", None)]


def test_the_check_is_called_while_images_are_read_and_may_stop(trained: Path) -> None:
    class StoppedHereError(Exception):
        pass

    def stop() -> None:
        raise StoppedHereError

    files = (ImageFile(str(trained / "images" / "dark" / "0.png"), "0.png") for _ in range(1000))
    with pytest.raises(StoppedHereError):
        next(predict_files(Classifier(trained / "run"), files, check=stop))
