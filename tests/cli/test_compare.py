"""`cctkit compare`: whole outputs, the contract of --json, filters, own runs, and what is refused."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from cctkit.cli.compare import compare
from cctkit.errors import UserError
from tests.golden_files import check_golden
from tests.runs.test_comparison import make_run
from tests.runs.test_paired import LABELS, A, B, write

app = typer.Typer()
app.command()(compare)

# The report's scores, as printed there, and that of its final result.
SCORES = {
    "88.739",
    "25.198",
    "25.547",
    "7.635",
    "80.979",
    "70.533",
    "95.436",
    "211.806",
    "134.355",
    "187.500",
    "127.693",
    "161.215",
}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no `runs/`."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def rows(*arguments: str) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = json.loads(run("--json", *arguments).stdout)["rows"]
    return value


def some_runs(folder: Path) -> None:
    """Two runs on CIFAR-100 and three elsewhere, one of them with a hostile name."""
    small = {"total": 493733, "without_embeddings": 485541}
    digits = {"total": 283723, "without_embeddings": 275531}
    make_run(folder / "big", top1_percent=75.31, recipe="report", seed=3)
    make_run(
        folder / "small", model="cct_4_3x2", params=small, top1_percent=53.02, top1_interval_percent=[52.04, 54.0], epochs=10
    )
    for seed, top1 in enumerate((98.6, 98.9)):
        make_run(
            folder / f"digits-{seed}",
            model="cct_2_3x2",
            dataset="digits",
            params=digits,
            num_images=359,
            epochs=15,
            top1_percent=top1,
            recipe="demo",
            seed=seed,
        )
    make_run(folder / "odd", model="=cmd|x", dataset="+pets|<b>", params=digits, epochs=None, top1_interval_percent=None)


@pytest.mark.parametrize(("flag", "suffix"), [(None, "txt"), ("--markdown", "md"), ("--csv", "csv"), ("--json", "json")])
def test_the_reports_table_is_printed_whole(flag: str | None, suffix: str) -> None:
    check_golden(f"compare.{suffix}", run(*([flag] if flag else [])).stdout)


@pytest.mark.parametrize(("flag", "suffix"), [(None, "txt"), ("--markdown", "md"), ("--csv", "csv")])
def test_own_runs_are_in_the_tables(flag: str | None, suffix: str) -> None:
    some_runs(Path("runs"))
    check_golden(f"compare_runs.{suffix}", run(*([flag] if flag else [])).stdout)


def test_the_reports_scores_are_all_there() -> None:
    of_others = [row for row in rows() if row["kind"] != "shipped"]
    assert {f"{row['score']:.3f}" for row in of_others if row["score"] is not None} == SCORES
    assert all(score in run().stdout for score in SCORES)


def test_the_contract_of_json_is_kept() -> None:
    document = json.loads(run("--json").stdout)
    assert document["schema_version"] == 1
    for row in document["rows"]:
        assert row.keys() >= {"model", "dataset", "training", "top1_percent", "params_millions", "score", "source", "pareto"}
    final = next(row for row in document["rows"] if row["kind"] == "final result")
    assert (final["model"], final["params_millions"], final["true_params"]) == ("CCT 6/3x1", 3.191397, 3256933)
    assert final["score_true_params"] == pytest.approx(514.5 / 3.256933)


def test_a_score_below_seventy_percent_is_null_and_shown_so() -> None:
    lite = next(row for row in rows("--all") if row["model"] == "vit_lite_6_4" and row["dataset"] == "cifar100")
    assert (lite["top1_percent"], lite["score"]) == (69.2, None)
    line = next(line for line in run("--all").stdout.splitlines() if line.startswith("vit_lite_6_4"))
    assert "< 70%" in line


def test_all_adds_results_of_other_networks() -> None:
    scores = {row["model"]: row["score"] for row in rows("--all", "--family", "condensenet,DenseNet,zennet")}
    # The figures of the papers: 1223, 966, 360 and 275; and of ZenNet's repository, with sizes of 0.5, 1 and 2 million.
    assert {model: round(score) for model, score in scores.items()} == {
        "CondenseNet-86": 1223,
        "DenseNet-BC-100-12": 966,
        "Wide-DenseNet-BC 40-48": 360,
        "CondenseNet-182": 275,
        "ZenNet-0.5M": 1980,
        "ZenNet-1M": 1010,
        "ZenNet-2M": 720,
    }


def test_runs_are_found_in_the_default_directory_and_elsewhere(tmp_path: Path) -> None:
    make_run(Path("runs/a"))
    make_run(tmp_path / "b")
    assert [row["run"] for row in rows("--no-published")] == ["runs/a"]
    assert [row["run"] for row in rows("--no-published", "--runs", str(tmp_path / "b"))] == [str(tmp_path / "b")]
    assert len(rows("--no-published", "--runs", "runs", "--runs", str(tmp_path / "b"))) == 2


def test_a_skipped_run_is_one_line_on_stderr_and_in_json() -> None:
    make_run(Path("runs/bad"), top1_percent="high")
    result = run("--json")
    assert result.stderr == "skipped runs/bad: result.json is malformed: top1_percent is 'high'\n"
    assert json.loads(result.stdout)["skipped"] == [
        {"run": "runs/bad", "reason": "result.json is malformed: top1_percent is 'high'"}
    ]


def test_the_front_is_computed_after_filtering() -> None:
    assert {row["family"] for row in rows("--family", "CVT")} == {"cvt"}
    assert [row["pareto"] for row in rows("--family", "cvt")] == [True, True]
    assert min(row["top1_percent"] for row in rows("--min-accuracy", "74.5")) == 74.92
    assert [row["model"] for row in rows("--sort", "params", "--family", "vit")] == ["ViT-S", "ViT-B", "ViT-B", "ViT-L"]


def test_csv_cells_are_never_formulas() -> None:
    some_runs(Path("runs"))
    odd = next(row for row in csv.DictReader(io.StringIO(run("--csv", "--no-published").stdout)) if row["run"] == "runs/odd")
    assert (odd["model"], odd["dataset"], odd["score"]) == ("'=cmd|x", "'+pets|<b>", "")


def test_names_are_escaped_in_markdown_tables() -> None:
    some_runs(Path("runs"))
    line = next(line for line in run("--markdown", "--no-published").stdout.splitlines() if "cmd" in line)
    assert line.startswith("| =cmd\\|x |")


def test_columns_left_out_on_a_narrow_terminal_are_named() -> None:
    from rich.console import Console

    from cctkit.catalog.results import RESULTS
    from cctkit.cli.compare_view import render
    from cctkit.runs.comparison import published_row, ranked

    tables = ranked(published_row(result) for result in RESULTS if result.kind != "published")
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(render(tables, width=80))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert "columns left out on this narrow terminal: score true, MACs G, epochs;" in " ".join(lines)
    assert all(any(score in line for line in lines) for score in SCORES)


@pytest.mark.parametrize("width", [60, 80])
def test_no_table_breaks_inside_a_word(width: int) -> None:
    """With default names of runs and the longest of a model."""
    from rich.console import Console

    from cctkit.catalog.results import NOTES, RESULTS
    from cctkit.cli.compare_view import label, render
    from cctkit.runs.comparison import find_runs, published_row, ranked

    some_runs(Path("runs"))
    long_name = "cifar100-cct_14_7x2_384_sine_c100-20261128-021501"
    make_run(Path("runs") / long_name, model="cct_14_7x2_384_sine_c100", recipe="shi-300", seed=12)
    found, _ = find_runs(Path("runs"))
    tables = ranked([*map(published_row, RESULTS), *found])
    narrow = Console(width=width, file=io.StringIO(), force_terminal=False)
    narrow.print(render(tables, width=width))
    text = narrow.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    words = {word for table in tables for row in table for word in label(row).split()}
    words |= {f"runs/{name}," for name in (long_name, "big", "digits-0", "digits-1")}
    words |= {word for table in tables for row in table for note in row.notes for word in NOTES[note].split()}
    assert words <= set(text.split())
    assert f"runs/{long_name}, recipe shi-300, seed 12" in " ".join(text.split())


def test_own_rows_come_first_with_their_run_recipe_and_seed() -> None:
    some_runs(Path("runs"))
    text = run().stdout
    heads = [block.splitlines()[0] for block in text.split("\n\n") if ", from scratch" in block or ", pretrained" in block]
    assert heads == [
        "CIFAR-100, from scratch",
        "CIFAR-100, pretrained on ImageNet-21k",
        "+pets|<b>, from scratch",
        "digits, from scratch",
    ]
    first, second = text.splitlines()[3:5]
    assert first.startswith("cct_6_3x1  ")
    assert first.split()[-4:] == ["200", "report", "3", "runs/big"]
    assert second.split()[-1] == "runs/small"
    own = [(row["run"], row["recipe"], row["seed"]) for row in rows() if row["kind"] == "run"]
    assert ("runs/digits-1", "demo", 1) in own
    assert rows()[0]["run"] == "runs/big"


def test_tables_of_other_data_sets_have_none_of_the_reports_footnotes() -> None:
    some_runs(Path("runs"))
    for flag in ((), ("--markdown",)):
        text = run(*flag).stdout
        others = text[text.index("+pets") :]
        assert "score" not in others
        assert "[" not in others
        assert others.count(": on the Pareto front") == 1
    alone = run("--runs", "runs/odd", "--no-published").stdout
    assert "front" not in alone


def test_a_data_set_with_at_least_two_rows_gets_a_panel(tmp_path: Path) -> None:
    some_runs(Path("runs"))
    result = run("--plot", str(tmp_path / "front.svg"))
    assert result.stderr == (
        f"not plotted, as it has only one row: +pets|<b>: accuracy against parameters\nwrote {tmp_path / 'front.svg'}\n"
    )
    text = (tmp_path / "front.svg").read_text()
    assert text.startswith("<?xml")
    assert [text.count(f"<!-- {title}: accuracy against parameters -->") for title in ("CIFAR-100", "digits", "+pets")] == [
        1,
        1,
        0,
    ]
    assert "<!-- cct_2_3x2, demo, seed 1 -->" in text


def test_a_plot_of_a_single_row_is_refused_before_printing(tmp_path: Path) -> None:
    some_runs(Path("runs"))
    result = CliRunner().invoke(app, ["--runs", "runs/odd", "--no-published", "--plot", str(tmp_path / "front.svg")])
    assert isinstance(result.exception, UserError)
    assert "no data set has two rows" in str(result.exception)
    assert result.stdout == ""
    assert not (tmp_path / "front.svg").exists()


def test_two_runs_are_compared_image_by_image(tmp_path: Path) -> None:
    a, b = (str(write(tmp_path / name, found, LABELS)) for name, found in (("a", A), ("b", B)))
    document = json.loads(run("--paired", a, b, "--json").stdout)
    assert document == {
        "schema_version": 1,
        "a": a,
        "b": b,
        "num_images": 8,
        "both_correct": 2,
        "only_a_correct": 4,
        "only_b_correct": 1,
        "neither_correct": 1,
        "top1_percent_a": 75.0,
        "top1_percent_b": 37.5,
        "difference_percent": 37.5,
        "mcnemar_p_value": pytest.approx(0.375),
    }
    assert run("--paired", a, b).stdout == (
        f"A  75.00%  {a}\nB  37.50%  {b}\n"
        "correct on the same 8 images: both 2, only A 4, only B 1, neither 1\n"
        "difference +37.50 points, McNemar's exact test p = 0.375: not significant at the 5% level\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "nothing"], "no such directory"),
        (["--no-published"], "no finished run"),
        (["--no-published", "--all"], "cannot be combined"),
        (["--sort", "size"], "cannot sort by 'size'"),
        (["--family", "resnet"], "no result of family 'resnet'"),
        (["--min-accuracy", "99"], "no result has a top-1 accuracy of 99%"),
        (["--json", "--csv"], "cannot be combined"),
        (["--plot", "front.gif"], "plots are saved as"),
        (["--paired", "a", "b", "--sort", "top1"], "--sort cannot be combined with --paired"),
        (["--paired", "a", "b", "--min-accuracy", "0"], "--min-accuracy cannot be combined with --paired"),
    ],
)
def test_what_cannot_be_done_is_an_error(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_neither_torch_nor_numpy_is_loaded() -> None:
    code = """
import sys
from cctkit.cli.compare import compare
compare(runs=None)
print(sorted({"torch", "torchvision", "numpy", "matplotlib", "plotext"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
