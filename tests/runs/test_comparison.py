"""Rows of published results and own runs: scores, fronts, tables, and what a run directory must hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cctkit.catalog.results import RESULTS
from cctkit.errors import UserError
from cctkit.runs.comparison import SORTS, find_runs, published_row, ranked, run_row

RESULT: dict[str, Any] = {
    "schema_version": 1,
    "model": "cct_6_3x1",
    "dataset": "cifar100",
    "split": "test",
    "num_images": 10000,
    "top1_percent": 75.31,
    "top1_interval_percent": [74.46, 76.15],
    "params": {"total": 3256933, "without_embeddings": 3191397},
    "epochs": 200,
}
MakeRun = Callable[..., Path]


def make_run(path: Path, *, values: Any = None, env: Any = None, **changes: Any) -> Path:
    """A finished run as `cctkit train` leaves it, with `changes` to its result; a value of ... leaves a key out."""
    path.mkdir(parents=True)
    result = {key: value for key, value in (RESULT | changes).items() if value is not ...}
    (path / "config.json").write_text(json.dumps({"values": values or {"model": result.get("model")}, "origins": {}}))
    (path / "result.json").write_text(json.dumps(result))
    if env is not None:
        (path / "env.json").write_text(json.dumps(env))
    return path


def test_a_run_is_scored_by_its_true_count_with_torchsummarys_beside(tmp_path: Path) -> None:
    row = run_row(make_run(tmp_path / "a"))
    assert (row.model, row.family, row.training, row.epochs) == ("cct_6_3x1", "cct", "from scratch", 200)
    assert row.top1_interval_percent == (74.46, 76.15)
    assert row.params_millions == 3.256933
    assert row.score == pytest.approx(531 / 3.256933)
    assert row.score_without_embeddings == pytest.approx(531 / 3.191397)
    assert row.macs is not None
    assert round(row.macs / 1e9, 3) == 1.014


def test_a_run_under_seventy_percent_or_on_other_images_has_no_score(tmp_path: Path) -> None:
    assert run_row(make_run(tmp_path / "a", top1_percent=69.9)).score is None
    assert run_row(make_run(tmp_path / "b", dataset="cifar10")).score is None


def test_multiply_adds_follow_the_settings_or_are_left_out(tmp_path: Path) -> None:
    digits = {"total": 283723, "without_embeddings": 275531}
    assert run_row(make_run(tmp_path / "a", model="cct_2_3x2", dataset="digits", params=digits)).macs == 35341568
    assert run_row(make_run(tmp_path / "b", params=digits)).macs is None
    assert run_row(make_run(tmp_path / "c", values={"no_such_setting": 1})).macs is None
    assert run_row(make_run(tmp_path / "d", params={"total": 3256934, "without_embeddings": 3191398})).macs is None


@pytest.mark.parametrize(
    ("model", "family"),
    [("vit", "vit"), ("vit_b_16", "vit"), ("vit_6_4_32", "vit_lite"), ("vit_lite_6_4", "vit_lite"), ("resnet18", "other")],
)
def test_the_family_of_a_run_is_its_models_by_whatever_name(tmp_path: Path, model: str, family: str) -> None:
    assert run_row(make_run(tmp_path / "a", model=model)).family == family


def test_a_fine_tuned_run_has_its_own_table(tmp_path: Path) -> None:
    assert run_row(make_run(tmp_path / "a", values={"init": "vit_b_16"})).training == "pretrained"


def test_tables_are_by_data_set_and_training_with_cifar100_first(tmp_path: Path) -> None:
    rows = [published_row(result) for result in RESULTS if result.kind != "published"]
    rows += [run_row(make_run(tmp_path / name, dataset=name)) for name in ("zoo", "apes", "cifar100")]
    assert [table[0].table for table in ranked(rows)] == [
        ("cifar100", "", "from scratch"),
        ("cifar100", "", "pretrained on ImageNet-21k"),
        ("apes", "", "from scratch"),
        ("zoo", "", "from scratch"),
    ]


def test_folders_of_one_name_with_other_images_are_ranked_apart(tmp_path: Path) -> None:
    rows = [
        run_row(make_run(tmp_path / name, dataset="pets", env={"dataset": {"fingerprint": name}}))
        for name in ("sha256:1", "sha256:2")
    ]
    assert [len(table) for table in ranked(rows)] == [1, 1]


def test_each_table_has_its_own_front_by_published_and_by_true_size() -> None:
    pretrained, scratch = ranked(published_row(result) for result in RESULTS if result.kind != "published")
    assert [(row.model, row.top1_percent) for row in pretrained if row.pareto] == [
        ("ViT-S", 89.7),
        ("ViT-B", 91.97),
        ("ViT-L", 93.44),
    ]
    assert {row.model for row in scratch if row.pareto} == {"CCT 4/3x2", "CCT 6/3x1", "CCT-7/3x1"}
    assert [row.kind for row in scratch if row.pareto and row.model == "CCT 6/3x1"] == ["report"]
    # With its embedding counted, CCT 6/3x1 is larger than CvT-6/4, which so comes onto the front.
    assert {row.model for row in scratch if row.pareto_true_params} == {"CCT 4/3x2", "CvT-6/4", "CCT 6/3x1", "CCT-7/3x1"}


def test_a_table_is_sorted_by_score_and_off_cifar100_by_accuracy_then_size(tmp_path: Path) -> None:
    _, scratch = ranked(published_row(result) for result in RESULTS if result.kind != "published")
    scores = [row.score for row in scratch]
    assert scores == sorted(scores, key=lambda value: -(value or 0))
    sizes = {"a": (90.0, 300), "b": (91.0, 900), "c": (91.0, 800)}
    rows = [
        run_row(make_run(tmp_path / name, dataset="x", top1_percent=top1, params={"total": total, "without_embeddings": total}))
        for name, (top1, total) in sizes.items()
    ]
    (table,) = ranked(rows)
    assert [Path(row.run or "").name for row in table] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("sort", "first"), [("top1", "CCT-7/3x1"), ("params", "CCT 4/3x2"), ("macs", "CCT 4/3x2"), ("model", "CCT 4/3x2")]
)
def test_a_table_can_be_sorted_otherwise(sort: str, first: str) -> None:
    _, scratch = ranked([published_row(result) for result in RESULTS if result.kind != "published"], sort)
    assert scratch[0].model == first


def test_every_sort_key_accepts_missing_values() -> None:
    for sort in SORTS:
        assert sum(len(table) for table in ranked(map(published_row, RESULTS), sort)) == len(RESULTS)


def test_unfinished_and_malformed_runs_are_skipped_with_the_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    make_run(tmp_path / "bad", top1_percent=101)
    make_run(tmp_path / "unfinished")
    (tmp_path / "unfinished" / "result.json").unlink()
    (tmp_path / "no run").mkdir()
    rows, skipped = find_runs(tmp_path)
    assert [row.run for row in rows] == [str(tmp_path / "good")]
    assert {Path(path).name: reason for path, reason in skipped.items()} == {
        "bad": "result.json is malformed: a top-1 accuracy is not between 0 and 100%",
        "unfinished": "not finished: it has no result.json",
    }


def test_a_run_directory_can_be_given_directly(tmp_path: Path) -> None:
    assert len(find_runs(make_run(tmp_path / "a"))[0]) == 1


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        find_runs(tmp_path / "nothing")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 2},
        {"model": 3},
        {"model": ""},
        {"dataset": ...},
        {"top1_percent": True},
        {"top1_percent": float("nan")},
        {"top1_percent": -1},
        {"top1_interval_percent": [1]},
        {"top1_interval_percent": [1, "x"]},
        {"params": None},
        {"params": {"total": 0, "without_embeddings": 1}},
        {"params": {"total": 10**400, "without_embeddings": 1}},
        {"num_images": "many"},
        {"epochs": []},
    ],
)
def test_a_malformed_result_is_an_error_that_names_the_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = make_run(tmp_path / "a", **changes)
    with pytest.raises(UserError) as caught:
        run_row(path)
    assert caught.value.where == str(path / "result.json")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"[" * 100_000, b"{", b"null"])
def test_a_result_that_is_no_json_object_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = make_run(tmp_path / "a")
    (path / "result.json").write_bytes(content)
    with pytest.raises(UserError, match=r"result\.json is malformed"):
        run_row(path)


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(list(RESULT)),
        _SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), _SCALARS, max_size=2),
    )
)
def test_any_result_is_a_row_or_an_error(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    path = make_run(tmp_path_factory.mktemp("any") / "a", **changes)
    try:
        row = run_row(path)
    except UserError:
        return
    assert ranked([row])


def test_names_from_a_run_are_made_printable(tmp_path: Path) -> None:
    assert run_row(make_run(tmp_path / "a", model="cct_\x1b[31m")).model == "cct_\\x1b[31m"
