"""What a person sees of an evaluation: every figure, aligned, and no name that does anything."""

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from cctkit.cli.report import render_evaluation

RESULT: dict[str, Any] = {
    "schema_version": 1,
    "model": "cct_4_3x2",
    "dataset": "cifar100",
    "split": "test",
    "num_images": 10_000,
    "top1_percent": 56.78,
    "top1_interval_percent": [55.807, 57.748],
    "balanced_accuracy_percent": 51.234,
    "balanced_accuracy_interval_percent": [49.996, 52.4],
    "macro_f1_percent": 50.0,
    "macro_f1_interval_percent": [48.1, 51.9],
    "top5_percent": 83.2,
    "loss": 1.65432,
    "ece": 0.03214,
    "params": {"total": 1_234_567, "without_embeddings": 1_200_000},
    "images_per_s": 3456.7,
    "epoch": None,
    "planned_epochs": None,
    "chosen_by": None,
    "finished": None,
    "score": None,
    "worst_classes": [
        {"class": name, "num_images": 100, "top1_percent": top1}
        for name, top1 in (("otter", 12.0), ("seal", 15.0), ("boy", 21.0), ("girl", 22.0), ("maple_tree", 29.5), ("bear", 31.0))
    ],
    "confusions": [
        {"class": true, "predicted": found, "count": count}
        for true, found, count in (
            ("otter", "seal", 31),
            ("boy", "girl", 28),
            ("girl", "boy", 25),
            ("maple_tree", "oak_tree", 22),
            ("seal", "otter", 19),
            ("bear", "wolf", 9),
        )
    ],
}

WHOLE = """\
model              cct_4_3x2
data               cifar100, test, 10,000 images
top-1              56.78%   95% interval 55.81 to 57.75
balanced accuracy  51.23%   95% interval 50.00 to 52.40
macro F1           50.00%   95% interval 48.10 to 51.90
top-5              83.20%
loss               1.6543 nats
calibration error  0.0321
parameters         1,234,567   without embeddings 1,200,000
speed              3,457 images/s

worst class  top-1  images
otter        12.0%     100
seal         15.0%     100
boy          21.0%     100
girl         22.0%     100
maple_tree   29.5%     100

most confused  taken for  images
otter          seal           31
boy            girl           28
girl           boy            25
maple_tree     oak_tree       22
seal           otter          19
"""

CALIBRATED = {"temperature": 1.2345678, "calibrated_loss": 1.5, "calibrated_ece": 0.0123}
VALIDATED = {"epoch": 1, "planned_epochs": 1, "chosen_by": "validation"}
CONFIDENT: dict[str, Any] = {
    "min_confidence": 0.5,
    "coverage_percent": 63.2,
    "coverage_interval_percent": [62.25, 64.141],
    "num_images": 6320,
    "top1_percent": 83.119,
    "top1_interval_percent": [82.175, 84.02],
    "left": {"num_images": 3680, "top1_percent": 11.5, "top1_interval_percent": [10.51, 12.57]},
}
NOTHING = {"num_images": 0, "top1_percent": None, "top1_interval_percent": None}

HOSTILE = {
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "[bold]otter[/bold]": "[bold]otter[/bold]",
    "[/]": "[/]",
    "[link=http://a.example]x[/link]": "[link=http://a.example]x[/link]",
    "two\nlines\r\t": r"two\nlines\r\t",
    "\u202eevil\u200b": r"\u202eevil\u200b",
    ":smile:": ":smile:",
    "=cmd|' /C calc'!A0": "=cmd|' /C calc'!A0",
    "../../etc/passwd": "../../etc/passwd",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
}


def shown(result: Mapping[str, Any], *, width: int, terminal: bool = False) -> str:
    """The text, without the blanks at the ends of lines. A console as careless as rich's own default: markup is on."""
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=terminal, color_system="truecolor" if terminal else None).print(
        render_evaluation(result)
    )
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def named(name: str) -> dict[str, Any]:
    """The result with `name` in every place that a name from outside can take."""
    return RESULT | {
        "model": name,
        "dataset": name,
        "worst_classes": [{"class": name, "num_images": 1, "top1_percent": 0.0}],
        "confusions": [{"class": name, "predicted": name, "count": 1}],
    }


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_whole_output_is_this(width: int) -> None:
    assert shown(RESULT, width=width) == WHOLE


@pytest.mark.parametrize(
    ("key", "name"), [("top5_percent", "top-5"), ("loss", "loss"), ("ece", "calibration error"), ("images_per_s", "speed")]
)
def test_null_values_are_left_out(key: str, name: str) -> None:
    names = ["model", "data", "top-1", "balanced accuracy", "macro F1"]
    names += ["top-5", "loss", "calibration error", "parameters", "speed"]
    names.remove(name)
    figures = shown(RESULT | {key: None}, width=80).split("\n\n")[0]
    assert [line.split("  ")[0] for line in figures.splitlines()] == names


def test_the_result_of_an_earlier_version_is_shown_without_the_figures_that_it_lacks() -> None:
    older = {key: value for key, value in RESULT.items() if not key.startswith(("balanced", "macro"))}
    assert shown(older, width=80) == "".join(
        line + "\n" for line in WHOLE.splitlines() if not line.startswith(("balanced", "macro"))
    )


def test_a_figure_without_an_interval_is_shown_alone() -> None:
    text = shown(RESULT | {"macro_f1_percent": 100.0, "macro_f1_interval_percent": None}, width=80)
    assert "macro F1           100.00%\n" in text


def test_a_zero_is_shown() -> None:
    text = shown(RESULT | {"loss": 0.0, "ece": 0.0, "top5_percent": 0.0}, width=80)
    assert "loss               0.0000 nats\n" in text
    assert "calibration error  0.0000\n" in text
    assert "top-5              0.00%\n" in text


def test_the_score_is_shown_with_its_formula_where_there_is_one() -> None:
    # 100 * (75.145 - 70) / 3.19 = 161.285
    text = shown(RESULT | {"score": 161.2853}, width=80)
    assert "score              161.285   100 * (top-1 - 70) / millions of parameters\n" in text
    assert "score" not in shown(RESULT, width=80)


RUN: dict[str, Any] = {"epoch": 7, "planned_epochs": 20, "chosen_by": "validation", "finished": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "7 of 20, the best by validation"),
        ({"epochs": 20}, "7 of 20, the best by validation"),
        ({"epochs": 12}, "7 of 20, the best by validation, stopped early after 12"),
        ({"epoch": 20, "chosen_by": "last epoch"}, "20 of 20"),
        ({"finished": False}, "7 of 20, the best by validation, the run is unfinished"),
        ({"chosen_by": "last epoch", "finished": None}, "7 of 20"),
        ({"epoch": None, "planned_epochs": None, "chosen_by": None, "finished": False}, "the run is unfinished"),
    ],
)
def test_the_evaluated_epoch_is_shown(changes: dict[str, Any], words: str) -> None:
    assert shown(RESULT | RUN | changes, width=80).splitlines()[2] == f"epoch              {words}"


def test_a_perfect_model_has_no_table_of_confusions() -> None:
    text = shown(RESULT | {"confusions": [], "worst_classes": []}, width=80)
    assert text == WHOLE.split("\n\n")[0] + "\n"


@pytest.mark.parametrize("name", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_control_characters_in_names_are_escaped(name: str) -> None:
    assert shown(named(name), width=120).count(HOSTILE[name]) == 5  # model, data, class, true, predicted


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("name", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_a_hostile_name_adds_no_control_character(name: str, width: int) -> None:
    text = shown(named(name), width=width)
    assert all(character == "\n" or character.isprintable() for character in text)
    coloured = [shown(named(each), width=width, terminal=True).count("\x1b") for each in (name, "a name")]
    assert coloured[0] == coloured[1]  # those of the headings


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize(
    "name", ["x" * 500, "many words " * 50, "水族館の魚" * 30, "\x1b" * 100], ids=["one word", "words", "wide", "escaped"]
)
def test_a_long_name_breaks_no_column(name: str, width: int) -> None:
    lines = shown(named(name), width=width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert "calibration error  0.0321" in lines
    (worst,) = [line for line in lines if line.startswith("worst class")]
    assert worst.endswith("  top-1  images")
    (figures,) = [line for line in lines if line.endswith(" 0.0%       1")]
    assert cell_len(figures) == cell_len(worst)


def test_figures_stay_under_their_headings_beside_wide_characters() -> None:
    rows = [{"class": name, "num_images": 7, "top1_percent": 50.0} for name in ("魚", "otter", "a")]
    lines = shown(RESULT | {"worst_classes": rows, "confusions": []}, width=60).splitlines()[-4:]
    assert {cell_len(line) for line in lines} == {len("worst class  top-1  images")}


@pytest.mark.parametrize(
    ("more", "loss", "error"),
    [
        (CALIBRATED, "1.6543 nats   1.5000 with the temperature", "0.0321   0.0123 with the temperature 1.235"),
        (dict.fromkeys(CALIBRATED), "1.6543 nats", "0.0321   no temperature without validation images"),
        (dict.fromkeys(CALIBRATED) | VALIDATED, "1.6543 nats", "0.0321   no temperature"),
        ({}, "1.6543 nats", "0.0321"),
    ],
    ids=["with", "without", "undetermined", "earlier version"],
)
def test_the_temperature_is_beside_the_figures_that_it_changes(more: dict[str, Any], loss: str, error: str) -> None:
    lines = shown(RESULT | more, width=80).splitlines()
    assert f"loss               {loss}" in lines
    assert f"calibration error  {error}" in lines


def test_above_a_confidence_there_are_coverage_accuracy_and_what_is_left() -> None:
    lines = shown(RESULT | {"confident": CONFIDENT}, width=100).splitlines()
    at = lines.index("confidence >= 0.5    63.20%   95% interval 62.25 to 64.14   6,320 images")
    assert lines[at + 1 : at + 3] == [
        "  top-1 of these     83.12%   95% interval 82.17 to 84.02",
        "  top-1 of the rest  11.50%   95% interval 10.51 to 12.57   3,680 images",
    ]
    no_rest = shown(RESULT | {"confident": CONFIDENT | {"left": NOTHING}}, width=100)
    assert ("top-1 of these" in no_rest, "top-1 of the rest" in no_rest) == (True, False)
    none = CONFIDENT | NOTHING | {"coverage_percent": 0.0, "coverage_interval_percent": [0.0, 0.04]}
    assert "confidence >= 0.5    0.00%   95% interval 0.00 to 0.04   0 images\n  top-1 of the rest" in shown(
        RESULT | {"confident": none}, width=100
    )
