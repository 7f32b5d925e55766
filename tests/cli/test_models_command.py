"""`cctkit models`: the catalog as a table and as JSON."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from cctkit.catalog.models import MODELS
from cctkit.cli.models import _table, catalog_rows, models
from cctkit.errors import UserError


def test_every_model_of_the_catalog_is_listed_with_its_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    models(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    rows = {row["model"]: row for row in document["models"]}
    assert list(rows) == list(MODELS)
    row = rows["cct_6_3x1"]
    published = row.pop("published")
    assert row == {
        "model": "cct_6_3x1",
        "alias": "cct_6_3x1_32",
        "family": "cct",
        "image_size": [32, 32],
        "num_classes": 100,
        "num_layers": 6,
        "embed_dim": 256,
        "mlp_dim": 512,
        "num_heads": 4,
        "params": {"total": 3256933, "without_embeddings": 3191397},
        "published_params_millions": 3.168,
        "macs": 1013867520,
    }
    assert {each["dataset"]: (each["top1_percent"], each["epochs"]) for each in published}["cifar100"] == (76.71, 200)
    assert rows["vit_h_14"]["params"]["total"] == 632045800
    report = {name: rows[name]["published_params_millions"] for name in ("vit_b_16", "vit_l_16", "vit_h_14")}
    assert report == {"vit_b_16": 86, "vit_l_16": 307, "vit_h_14": 632}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("cvt", ["cvt_6_4", "cvt_7_4"]),
        ("cct-2", ["cct_2_3x2"]),
        ("cct_*_3x1", ["cct_6_3x1", "cct_7_3x1"]),
        ("vit_7_4_32", ["vit_lite_7_4"]),
        ("VIT_?_32", ["vit_b_32", "vit_l_32"]),
    ],
)
def test_a_pattern_matches_names_and_aliases(pattern: str, names: list[str]) -> None:
    assert [row["model"] for row in catalog_rows(pattern)] == names


def test_a_pattern_that_nothing_matches_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UserError, match="cct_6_3x1"):
        catalog_rows("cct_6_3x9")


def test_the_table_has_the_values_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    models("cct_6")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["model", "family", "pixels", "layers"]
    assert len(lines) == 3
    assert lines[1].split()[:11] == ["cct_6_3x1", "cct", "32", "6", "256", "512", "4", "100", "3,256,933", "3.168", "1.014"]
    assert "76.71 CIFAR-100" in lines[1]


def test_classes_can_be_given() -> None:
    assert catalog_rows("cct_6_3x1", num_classes=10)[0]["params"]["total"] == 3256933 - 90 * 257


def test_it_needs_no_torch() -> None:
    code = "import sys; from cctkit.cli.models import _table, models; models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_leaves_out_columns_and_cuts_none(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    console.print(_table(catalog_rows(), width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for row in catalog_rows():
        assert {row["model"], f"{row['params']['total']:,}", f"{row['macs'] / 1e9:.3f}"} <= set(words)
    assert "columns left out on this narrow terminal: " in text
    assert "…" not in text
