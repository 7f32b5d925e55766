"""A run's settings: defaults, then the recipe, then the file, then the flags; only together they can contradict each other."""

from typing import Any

import pytest

from cctkit.catalog.recipes import RECIPES, Resolved, describe, possible_settings, resolve
from cctkit.config.fields import AUGMENT, MAIN, OPTIMIZER
from cctkit.config.settings import TrainConfig, settings
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


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"min_lr": 1e-3}, 2e-3),  # above the lr of `report`, 5e-4, but not above that of `fast`
        ({"warmup_epochs": 150.0}, 5e-4),  # more than the epochs of `fast`, 10
    ],
)
def test_before_the_recipe_is_known_values_that_one_possible_recipe_admits_are_no_error(
    flags: dict[str, Any], expected: float
) -> None:
    found = possible_settings(recipe_name=None, file_values={}, flags=flags)
    assert next(each.config.lr for each in found.values() if isinstance(each, Resolved)) == expected


@pytest.mark.parametrize(
    "flags", [{"min_lr": 1.0}, {"accumulate": 100, "batch_size": 64}, {"dataset": "digits", "min_lr": 0.1}]
)
def test_before_the_recipe_is_known_values_that_no_possible_recipe_admits_are_an_error(flags: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        possible_settings(recipe_name=None, file_values={}, flags=flags)


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
    for values in RECIPES[name].sources.values():
        assert config.flat().items() >= values.items()


# SHI-Labs/Compact-Transformers, examples/main.py (flags' defaults, transforms and `LabelSmoothingCrossEntropy`), src/cct.py
# (dropout_rate, attention_dropout, stochastic_depth of `_cct`) and examples/utils/autoaug.py (fillcolor); the report where
# marked. What neither has is off.
REPORT = {
    "epochs": 200,  # the report too
    "batch_size": 128,
    "lr": 5e-4,
    "optimizer": "adamw",  # the report too
    "weight_decay": 0.03,
    "decay_all": True,  # AdamW(model.parameters(), ...)
    "decay_embeddings": False,  # of no effect beside decay_all
    "warmup_fraction": 0.1,  # the report: "the first 10% of the epochs"
    "warmup_epochs": None,
    "min_lr": 0.0,  # the report's cosine annealing, and the script's
    "cooldown_epochs": 0.0,
    "label_smoothing": 0.1,
    "auto_augment": "cifar10",  # the report too: CIFAR10Policy()
    "aa_fill": 128,
    "aa_interpolation": None,
    "crop": "pad",
    "crop_padding": 4,
    "flip": True,  # the report too
    "mixup": 0.0,
    "cutmix": 0.0,
    "random_erase": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.1,
    "drop_path": 0.1,
}
# SHI-Labs/Compact-Transformers, configs/pretrained/cct_7-3x1_cifar100_300epochs.yml; src/cct.py for the dropouts; train.py and
# timm for the rest: hflip 0.5, the parameter groups.
SHI_300 = {
    "epochs": 310,  # epochs: 300, cooldown_epochs: 10
    "batch_size": 128,
    "lr": 6e-4,
    "optimizer": "adamw",
    "weight_decay": 6e-2,
    "decay_all": False,  # timm.optim.create_optimizer_v2: vectors and biases are not decayed,
    "decay_embeddings": True,  # embeddings are, as the model has no `no_weight_decay`
    "warmup_fraction": 0.1,  # of no effect beside warmup_epochs
    "warmup_epochs": 10.0,
    "min_lr": 1e-5,
    "cooldown_epochs": 10.0,
    "label_smoothing": 0.1,
    "auto_augment": "rand",  # rand-m9-mstd0.5-inc1
    "aa_fill": None,  # timm: the mean
    "aa_interpolation": None,
    "crop": "resized",
    "crop_scale": 0.8,
    "flip": True,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_switch_prob": 0.5,
    "random_erase": 0.25,
    "dropout": 0.0,
    "attention_dropout": 0.1,
    "drop_path": 0.1,
}
# What neither source has: off, or for all images. `crop_padding`, `crop_scale`, `mix_switch_prob` count only beside theirs.
OFF = {"clip_grad": None, "accumulate": 1, "ema": None, "freeze": "none", "layer_decay": 1.0, "early_stopping": None}
OFF |= {"aa_prob": 1.0, "mix_prob": 1.0, "unmixed_fraction": 0.0}
OFF |= {"class_weights": None, "balanced_sampling": None, "choose_by": "top1"}


@pytest.mark.parametrize(("name", "published"), [("report", REPORT), ("shi-300", SHI_300)])
def test_a_published_recipe_has_the_published_values(name: str, published: dict[str, Any]) -> None:
    found = resolved(name, model="cct_7_3x1").config.flat()
    expected = published | OFF
    assert {key: found[key] for key in expected} == expected
    panels = {item.name: item.metadata["panel"] for item, _ in settings()}
    training = {key for key, panel in panels.items() if panel in (AUGMENT, OPTIMIZER)} | {"epochs", "batch_size", "lr"}
    idle = {"muon_lr", "crop_padding", "crop_scale", "mix_switch_prob"}
    assert training - set(expected) <= idle, "a new setting of training needs a published value here"
    assert {key for key, panel in panels.items() if panel == MAIN} == {"model", "dataset", "init", "epochs", "batch_size", "lr"}


def test_the_policys_fill_goes_with_the_policy() -> None:
    assert resolved("report", aa_fill=0).config.augment.aa_fill == 0
    assert resolved("report", auto_augment="cifar10").config.augment.aa_fill == 128
    other = resolved("report", auto_augment="rand")
    assert (other.config.augment.aa_fill, other.origins["aa_fill"]) == (None, "default")
    assert resolved("report", auto_augment="none").config.augment.aa_fill is None
    assert resolved("report", {"aa_fill": 7}, auto_augment="rand").config.augment.aa_fill is None
    assert resolved("report", {"auto_augment": "rand"}, aa_fill=7).config.augment.aa_fill == 7


@pytest.mark.parametrize("flags", [{"aa_fill": 128}, {"aa_interpolation": "bilinear"}, {"aa_prob": 0.5}])
def test_a_setting_of_the_policy_without_a_policy_is_an_error(flags: dict[str, Any]) -> None:
    assert resolved(None, **flags).config.augment.auto_augment == "cifar10"  # while the recipe is still to be found
    for recipe, more in (("fast", {}), ("report", {"auto_augment": "none"})):
        with pytest.raises(UserError, match="has no effect without AutoAugment or RandAugment"):
            resolved(recipe, **flags, **more)


@pytest.mark.parametrize("flags", [{"mix_prob": 0.5}, {"unmixed_fraction": 0.1}])
def test_a_setting_of_mixing_without_mixup_and_cutmix_is_an_error(flags: dict[str, Any]) -> None:
    assert resolved("shi-300", **flags).config.augment.cutmix == 1
    assert resolved("fast", **flags, mixup=0.2).config.augment.mixup == 0.2
    with pytest.raises(UserError, match="has no effect without mixup or CutMix"):
        resolved("fast", **flags)
    with pytest.raises(UserError, match="has no effect without mixup or CutMix"):
        resolved("shi-300", **flags, mixup=0, cutmix=0)
    of_a_file = resolved("fast", {"mixup": 0.2} | flags, mixup=0)
    assert of_a_file.config.augment == resolved("fast").config.augment


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_described_by_its_row(name: str) -> None:
    row = RECIPES[name]
    assert row.purpose
    assert row.expected
    assert describe(name) == f"recipe {name}: {row.purpose}\n  expected: {row.expected}"
