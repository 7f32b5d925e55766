"""The published results: the report's rows to the digit, a source for every row, true counts beside."""

import pytest

from cctkit.catalog.models import named_config
from cctkit.catalog.results import NOTES, RESULTS, PublishedResult
from cctkit.runs.comparison import published_row
from tests.catalog.test_counts import PUBLISHED

# The report's score table: model, training, top-1 in percent, size in millions.
REPORT = [
    ("ViT-S", "pretrained on ImageNet-21k", 89.7, 22.2),
    ("ViT-B", "pretrained on ImageNet-21k", 91.67, 86),
    ("ViT-B", "pretrained on ImageNet-21k", 91.97, 86),
    ("ViT-L", "pretrained on ImageNet-21k", 93.44, 307),
    ("CvT-7/4", "from scratch", 73.01, 3.717),
    ("CvT-6/4", "from scratch", 72.25, 3.19),
    ("CCT 4/3x2", "from scratch", 70.46, 0.482),
    ("CCT 6/3x1", "from scratch", 76.71, 3.168),
    ("CCT 6/3x2", "from scratch", 74.47, 3.327),
    ("CCT-7/3x1", "from scratch", 77.05, 3.76),
    ("CCT-7/3x2", "from scratch", 74.92, 3.853),
]
IDS = [f"{row.model}-{row.dataset}-{row.epochs}-{row.top1_percent}" for row in RESULTS]


def test_the_reports_eleven_rows_are_its_own() -> None:
    rows = [(row.model, row.training, row.top1_percent, row.params_millions) for row in RESULTS if row.kind == "report"]
    assert rows == REPORT


def test_the_final_result_is_the_reports() -> None:
    (row,) = (row for row in RESULTS if row.kind == "final result")
    assert (row.model, row.epochs, row.top1_percent, row.params_millions) == ("CCT 6/3x1", 200, 75.145, 3.191397)


@pytest.mark.parametrize("row", RESULTS, ids=IDS)
def test_every_row_has_a_source_known_notes_and_a_model_of_the_catalog_where_it_names_one(row: PublishedResult) -> None:
    assert row.source
    assert set(row.notes) <= set(NOTES)
    if row.name is not None:
        assert named_config(row.name).family == row.family


def test_no_row_is_duplicated() -> None:
    keys = [(row.model, row.dataset, row.epochs, row.top1_percent, row.training) for row in RESULTS]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", PUBLISHED)
def test_true_counts_are_given_beside_published_ones(name: str) -> None:
    rows = [published_row(row) for row in RESULTS if row.name == name and row.dataset == "cifar100"]
    assert rows
    for row in rows:
        params, without_embeddings, billions = PUBLISHED[name]
        assert (row.true_params, row.params_without_embeddings) == (params, without_embeddings)
        assert row.macs is not None
        assert abs(row.macs / 1e9 - billions) < 0.00051  # the table has three decimals


def test_the_published_sizes_of_large_models_are_those_of_a_thousand_classes() -> None:
    rows = {row.model: published_row(row) for row in RESULTS if row.dataset == "imagenet1k"}
    assert {model: round(row.true_params / 1e6, 2) for model, row in rows.items() if row.true_params} == {
        "cct_14_7x2_224": 22.37,  # published: 22.36
        "cct_14_7x2_384": 22.51,
    }


def test_what_the_report_leaves_open_has_no_true_count() -> None:
    assert all(published_row(row).true_params is None for row in RESULTS if row.family == "vit")
