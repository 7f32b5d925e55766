"""`cctkit recipes`, and where else the recipes are told: always from the table."""

import json
import re
from pathlib import Path

import pytest
import typer

from cctkit.catalog.recipes import RECIPES
from cctkit.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_each_recipe_is_listed_with_purpose_expected_accuracy_and_differences(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["recipes"]) == 0
    printed = capsys.readouterr().out
    for name, row in RECIPES.items():
        assert f"{name}: {row.purpose}\n  expected: {row.expected}\n" in printed
        assert not row.differs or f"  differs from its source: {row.differs}\n" in printed
    assert app.run(["recipes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in document["recipes"]] == list(RECIPES)
    assert document["recipes"][1]["sources"] == {source: dict(rows) for source, rows in RECIPES["shi-300"].sources.items()}


@pytest.mark.parametrize("command", ["train", "plot-lr"])
def test_the_help_names_every_recipe_of_the_table(command: str) -> None:
    option = next(each for each in typer.main.get_command(app.app).commands[command].params if each.name == "recipe")  # type: ignore[attr-defined]
    assert option.help.startswith(", ".join(RECIPES))


def test_the_readme_has_a_row_for_every_recipe() -> None:
    table = README.split("| recipe | what it is |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([^`]+)`", table, re.MULTILINE) == list(RECIPES)
