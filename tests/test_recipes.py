"""A run's settings: defaults, then the recipe, then the file, then the flags; only together they can contradict each other."""

from typing import Any

import pytest

from cctkit.catalog.recipes import RECIPES, Resolved, resolve
from cctkit.config import TrainConfig
from cctkit.errors import UserError


def resolved(recipe: str | None = "report", file: dict[str, Any] | None = None, **flags: Any) -> Resolved:
    return resolve(recipe_name=recipe, file_values=file or {}, file_name="my.toml", flags=flags)


def test_a_flag_beats_the_file_and_the_file_the_recipe() -> None:
    found = resolved("fast", {"lr": 0.1, "epochs": 3}, lr=0.2)
    assert (found.config.lr, found.config.epochs, found.config.muon_lr, found.config.seed) == (0.2, 3, 0.02, 0)
    assert [found.origins[key] for key in ("lr", "epochs", "muon_lr", "seed")] == [
        "flag",
        "config my.toml",
        "recipe fast (cctkit)",
        "default",
    ]


@pytest.mark.parametrize(
    ("file", "flags"),
    [
        ({"min_lr": 0.01}, {"lr": 0.1}),
        ({"accumulate": 200}, {"batch_size": 400}),
        ({"warmup_epochs": 300}, {"epochs": 400}),
        ({"freeze": "backbone"}, {"init": "vit_b_16"}),
    ],
)
def test_what_a_file_leaves_to_the_flags_is_judged_with_them(file: dict[str, Any], flags: dict[str, Any]) -> None:
    values = resolved(None, file, **flags), resolved("report", file, **flags)
    assert values[1].config == TrainConfig.from_flat(values[1].config.flat() | file | flags)
    with pytest.raises(UserError):
        resolved("report", file)


def test_a_fraction_of_warm_up_outdoes_the_epochs_of_what_lies_beneath() -> None:
    assert resolved("shi-300").config.warmup_epochs == 10
    by_flag = resolved("shi-300", warmup_fraction=0.3)
    assert (by_flag.config.warmup_fraction, by_flag.config.warmup_epochs) == (0.3, None)
    assert by_flag.origins["warmup_epochs"] == "default"
    assert resolved(None, {"warmup_epochs": 3.0}, warmup_fraction=0.3).config.warmup_epochs is None
    both = resolved("shi-300", {"warmup_fraction": 0.3}, warmup_epochs=2.0)
    assert both.config.warmup_epochs == 2


@pytest.mark.parametrize("flags", [{"min_lr": 1e-3}, {"accumulate": 100, "batch_size": 64}])
def test_while_the_recipe_is_still_to_be_found_nothing_is_compared_with_what_it_may_give(flags: dict[str, Any]) -> None:
    assert resolved(None, **flags).config.min_lr == 0
    if "min_lr" in flags:  # above the default lr of 5e-4, not above the demo's 2e-3
        assert resolved("demo", **flags).config.min_lr == 1e-3


@pytest.mark.parametrize("recipe", [None, "report"])
@pytest.mark.parametrize("values", [{"min_lr": -1.0}, {"epochs": "3"}, {"epoch": 3}, {"warmup_epochs": "x"}])
def test_each_value_alone_is_judged_early_where_it_stands(values: dict[str, Any], recipe: str | None) -> None:
    with pytest.raises(UserError) as caught:
        resolved(recipe, values)
    assert caught.value.where == "my.toml"
    with pytest.raises(UserError) as caught:
        resolved(recipe, None, **values)
    assert caught.value.where != "my.toml"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_run_of_its_own(name: str) -> None:
    config = resolved(name).config
    for settings in RECIPES[name].sources.values():
        assert config.flat().items() >= settings.items()
