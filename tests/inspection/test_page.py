"""The page of `cctkit inspect` without a browser: its figures, what it may load, names from outside, parts without data."""

import base64
import dataclasses
import hashlib
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cctkit.cli.app import run
from cctkit.data.dataset import load_dataset
from cctkit.errors import UserError
from cctkit.inspection.mistakes import classified
from cctkit.inspection.page import CONTENTS
from cctkit.inspection.parts import confusion_part, reliability_part
from cctkit.inspection.run import read_run
from cctkit.runs.predictions import read_predictions
from cctkit.summary.summary import summarize
from cctkit.text import safe_text
from tests.conftest import write_images
from tests.inspection.conftest import BREAKOUT, HOSTILE, Elements, change_json, inspected, rows_of


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the memory of a training step, which takes half a second to predict."""
    monkeypatch.setattr("cctkit.inspection.inspect.summarize", partial(summarize, memory=False))


def missing(result: dict[str, object]) -> dict[str, str]:
    return {each["part"]: each["reason"] for each in result["without_data"]}  # type: ignore[attr-defined]


def test_the_figures_on_the_page_are_those_of_the_result(page: str, finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    shown = {attributes["data-key"]: (float(attributes["value"] or ""), text) for attributes, text in Elements(page).of("data")}
    assert shown.keys() == {
        *("top1_percent", "top5_percent", "balanced_accuracy_percent", "macro_f1_percent"),
        *("loss", "ece", "num_images", "params.total"),
    }
    for key, (value, text) in shown.items():
        expected = result["params"]["total"] if key == "params.total" else result[key]
        assert value == expected
        assert float(text.strip("%").replace(",", "")) == pytest.approx(expected, abs=0.006)
    rows = rows_of(page, "metrics by class")
    assert [[value and float(value) for _, value in row[1:]] for row in rows] == [
        [each[key] for key in ("num_images", "precision_percent", "recall_percent", "f1_percent", "num_predicted")]
        for each in result["per_class"]
    ]
    assert [row[0][0] for row in rows] == [safe_text(each["class"]) for each in result["per_class"]]


def test_the_page_loads_nothing_and_its_ids_are_unique(page: str) -> None:
    elements = Elements(page)
    ids = [attributes["id"] for _, attributes, _ in elements.found if "id" in attributes]
    assert sorted(ids) == sorted(CONTENTS)
    assert {attributes["href"] for attributes, _ in elements.of("a")} == {f"#{name}" for name in CONTENTS}
    for _, attributes, _ in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action", "formaction")]
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    ((_, script),), ((_, style),) = elements.of("script"), elements.of("style")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|innerHTML", script.split("\n", 2)[2] + style)
    (policy,) = [each["content"] for each, _ in elements.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert 20_000 < len(page) < 1_000_000


def test_names_from_outside_are_text(page: str) -> None:
    assert not [name for name in HOSTILE if name in page and name not in ("javascript:hacked=1", "{{7*7}}{% raise %}")]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "49" not in "".join(text for _, text in Elements(page).of("td") if "7*7" in text)
    names = {row[0][0] for row in rows_of(page, "metrics by class")}
    assert names == {safe_text(name) for name in HOSTILE}
    assert "{{7*7}}{% raise %}" in names


@pytest.mark.usefixtures("no_memory")
def test_values_of_a_foreign_run_cannot_break_out_of_the_page(copied: Path, tmp_path: Path) -> None:
    change_json(copied / "env.json", lambda env: env.update(command=["train", BREAKOUT], platform={BREAKOUT: [BREAKOUT]}))
    change_json(copied / "env.json", lambda env: env["dataset"].update(name=BREAKOUT))
    change_json(copied / "config.json", lambda config: config["origins"].update(epochs=BREAKOUT))
    _, html = inspected(copied, tmp_path / "page.html", mistakes=0)
    assert "</script><script>" not in html
    assert (html.count("<script"), html.count("<style"), html.count("<svg onload")) == (1, 1, 0)
    assert Elements(html).of("h1")[0][1] == f"cct_2_3x1 on {BREAKOUT}"


def test_every_part_of_a_finished_run_has_its_data(page: str, finished: Path) -> None:
    assert page.count('class="missing"') == 0
    for name, title in CONTENTS.items():
        assert f'<section id="{name}">\n<h2>{title}</h2>' in page
    assert page.count('class="card"') == min(5, int((_found(finished) != _labels(finished)).sum()))
    assert "{% raise %}" in page
    assert "image/jpeg" in page  # the heat maps


def _labels(finished: Path) -> np.ndarray:
    return read_predictions(finished / "predictions.safetensors").labels


def _found(finished: Path) -> np.ndarray:
    return read_predictions(finished / "predictions.safetensors").logits.argmax(axis=1)


def test_the_most_confused_classes_and_the_mistakes_are_those_of_the_predictions(page: str, finished: Path) -> None:
    predictions = read_predictions(finished / "predictions.safetensors")
    names, found, labels = predictions.class_names, _found(finished), _labels(finished)
    counts: dict[tuple[str, str], int] = {}
    for label, taken in zip(labels.tolist(), found.tolist(), strict=True):
        if label != taken:
            pair = safe_text(names[label]), safe_text(names[taken])
            counts[pair] = counts.get(pair, 0) + 1
    shown = {(row[0][0], row[1][0]): float(row[2][1] or 0) for row in rows_of(page, "most confused classes")}
    assert shown == counts
    logits = predictions.logits.astype(np.float64)
    confidence = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1)
    expected = sorted(confidence[found != labels], reverse=True)[:5]
    cards = re.findall(r'class="card"><p>.*?, ([\d.]+)%</p>', page)
    assert [float(each) for each in cards] == pytest.approx([100 * each for each in expected], abs=0.06)


def test_with_a_temperature_the_probabilities_are_those_that_predict_gives(finished: Path) -> None:
    run = read_run(finished, notify=lambda _: None)
    assert run.trained is not None
    assert run.predictions is not None
    assert len(reliability_part(run).charts) == 2
    info = dataclasses.replace(run.trained.info, metrics={"temperature": 2.0})
    warm = dataclasses.replace(run, trained=dataclasses.replace(run.trained, info=info))
    found = reliability_part(warm)
    assert [chart.title for chart in found.charts[:2]] == ["Accuracy by confidence, with the temperature", "Without it"]
    assert "is 2." in found.sentence
    logits = run.predictions.logits.astype(np.float64) / 2
    confidence = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1)
    means = [row[3].value for row in found.table.rows]
    assert sum(row[2].value * mean for row, mean in zip(found.table.rows, means, strict=True)) == pytest.approx(
        confidence.sum()
    )
    dataset = load_dataset(run.config.data, split_rule=2)
    images = classified(run.predictions, dataset.test, temperature=2.0)
    assert images.confidence == pytest.approx(confidence)


def test_rows_that_are_not_finite_are_told_and_are_no_mistakes(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(finished, notify=lambda _: None)
    assert run.predictions is not None
    logits = run.predictions.logits.copy()
    logits[[0, 3], 1] = np.nan
    broken = dataclasses.replace(run.predictions, logits=logits)
    found = confusion_part(dataclasses.replace(run, predictions=broken), lambda: "")
    assert found.without_class.startswith("2 images without a prediction")
    dataset = load_dataset(run.config.data, split_rule=2)
    images = classified(broken, dataset.test, temperature=None)
    assert not images.is_wrong[[0, 3]].any()
    assert images.is_wrong.sum() == (np.delete(_found(finished) != _labels(finished), [0, 3])).sum()
    monkeypatch.setattr("cctkit.inspection.parts._MOST_DRAWN", 7)  # of the 8 classes of the run
    many = confusion_part(run, lambda: "data:image/png;base64,AA")
    assert (many.matrix, many.uri) == (None, "data:image/png;base64,AA")


@pytest.mark.usefixtures("no_memory")
def test_a_run_that_is_not_finished_says_so_in_the_parts_that_need_its_end(copied: Path, tmp_path: Path) -> None:
    (copied / "result.json").unlink()
    (copied / "predictions.safetensors").unlink()
    result, html = inspected(copied, tmp_path / "page.html")
    reason = "The run is not finished, so its test images have not been evaluated."
    assert {name for name, each in missing(result).items() if each == reason} == {
        *("result", "confusion", "classes", "mistakes", "reliability", "heat-maps")
    }
    assert missing(result).keys() - {"check"} == {"result", "confusion", "classes", "mistakes", "reliability", "heat-maps"}
    assert html.count(reason) == 6
    assert "Not finished: 2 of 2 epochs so far." in html
    assert [Path(path).name for path in result["pictures"]] == ["batch.png"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory")
def test_a_run_whose_first_epoch_is_not_finished_has_settings_environment_and_batch(copied: Path, tmp_path: Path) -> None:
    for name in ("result.json", "predictions.safetensors", "weights.safetensors", "metrics.jsonl"):
        (copied / name).unlink()
    result, html = inspected(copied, tmp_path / "page.html")
    assert CONTENTS.keys() - missing(result).keys() == {"batch", "settings", "environment"}
    assert missing(result)["curves"] == "No epoch of the run is finished yet."
    assert "0 epochs of 2 finished." in html


@pytest.mark.usefixtures("no_memory")
def test_without_the_images_of_the_run_the_rest_is_there_and_all_where_they_are_now(
    copied: Path, images: Path, tmp_path: Path
) -> None:
    change_json(copied / "config.json", lambda config: config["values"].update(dataset=str(tmp_path / "gone")))
    result, html = inspected(copied, tmp_path / "page.html", check=True)
    assert missing(result).keys() == {"mistakes", "batch", "heat-maps", "check"}
    assert missing(result)["batch"].startswith("The images of the run cannot be opened: ")
    assert missing(result)["check"].startswith("The images cannot be checked: ")
    assert "gone" in missing(result)["batch"]
    assert html.count('class="missing"') == 4
    moved, _ = inspected(copied, tmp_path / "page.html", check=True, dataset=str(images))
    assert missing(moved) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory")
def test_images_that_have_changed_are_not_taken_for_those_of_the_run(copied: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    write_images(tmp_path / "images", {HOSTILE[3]: 1}, seed=5)
    change_json(copied / "config.json", lambda config: config["values"].update(dataset=str(tmp_path / "images")))
    result, _ = inspected(copied, tmp_path / "page.html")
    assert missing(result)["mistakes"] == "The images of images are not those that the run was trained with."


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory")
def test_lost_predictions_and_results_of_earlier_versions_are_named(copied: Path, tmp_path: Path) -> None:
    (copied / "predictions.safetensors").unlink()
    change_json(copied / "result.json", lambda result: [result.pop(key) for key in ("per_class", "macro_f1_percent")])
    result, html = inspected(copied, tmp_path / "page.html", mistakes=0)
    assert missing(result)["classes"].startswith("The run is of a version of cctkit that did not keep the metrics")
    assert missing(result)["confusion"].startswith("The run has no predictions.safetensors any more")
    assert "macro F1" not in html


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("result.json", lambda result: result.update(top1_percent="<b>")),
        ("result.json", lambda result: result["per_class"][0].update(recall_percent=[1])),
        ("result.json", lambda result: result.update(params=3)),
        ("result.json", lambda result: result.update(macro_f1_interval_percent="x")),
        ("result.json", lambda result: result.update(per_class={})),
        ("env.json", lambda env: env.update(policy=None)),
    ],
)
def test_a_malformed_file_is_an_error_that_names_it(copied: Path, tmp_path: Path, file: str, change: object) -> None:
    change_json(copied / file, change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is malformed"):
        inspected(copied, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory")
def test_only_an_earlier_page_and_earlier_pictures_are_replaced(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inspect", str(copied), "-o", str(tmp_path / "page.html"), "--mistakes=1", "--no-check", "--quiet", "--threads=1"]
    (tmp_path / "page.html").write_text("mine")
    (copied / "batch.png").write_bytes(b"mine")
    assert run(words) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    (tmp_path / "page.html").unlink()
    assert run(words) == 0
    assert f"not written: {copied}/batch.png" in capsys.readouterr().err
    assert ((copied / "batch.png").read_bytes(), (copied / "mistakes.png").read_bytes()[:4]) == (b"mine", b"\x89PNG")
    first = (tmp_path / "page.html").read_bytes(), (copied / "mistakes.png").read_bytes()
    assert run([*words, "--json"]) == 0  # equal runs give equal pages
    assert ((tmp_path / "page.html").read_bytes(), (copied / "mistakes.png").read_bytes()) == first
    found = json.loads(capsys.readouterr().out)
    assert (found["output"], found["bytes"]) == (str(tmp_path / "page.html"), len(first[0]))
    assert [Path(path).name for path in found["pictures"]] == ["confusion.png", "mistakes.png"]
    assert [each["part"] for each in found["without_data"]] == ["check"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{run}", "-o", "{new}/page.pdf"], "the page is an HTML file"),
        (["{run}", "-o", "{new}/no/page.html"], "there is no directory"),
        (["{new}", "-o", "{new}/page.html"], "not a run directory"),
        (["{run}/weights.safetensors", "-o", "{new}/page.html"], "not a run directory"),
        (["{run}"], "--output"),
    ],
)
def test_what_cannot_be_written_or_is_no_run_is_refused(
    words: list[str], told: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", *(word.format(run=finished, new=tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []
