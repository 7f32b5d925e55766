"""Named training recipes: settings with their sources, and the expected accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cctkit.config.settings import MIX_SETTINGS, POLICY_SETTINGS, TrainConfig, check_settings
from cctkit.errors import UserError
from cctkit.text import did_you_mean, safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings by source. All others have the defaults of `TrainConfig`."""

    purpose: str
    expected: str
    """Expected accuracy, with data set, model and source."""
    sources: Mapping[str, Mapping[str, Any]]
    one_conv: Mapping[str, Any] = field(default_factory=dict)
    """Further settings for models with one convolution (`x1`), whose sequences are four times as long."""
    differs: str = ""
    """Remaining differences from the source."""

    def settings(self, model: str) -> dict[str, tuple[Any, str]]:
        """Setting -> (value, source) for this model."""
        rows = {key: (value, source) for source, values in self.sources.items() for key, value in values.items()}
        if "x1" in model:
            rows |= {key: (value, "cctkit") for key, value in self.one_conv.items()}
        return rows


_SHI_200 = MappingProxyType(
    {
        "lr": 5e-4,
        "weight_decay": 0.03,
        "decay_all": True,
        "batch_size": 128,
        "epochs": 200,
        "crop": "pad",
        "crop_padding": 4,
        "attention_dropout": 0.1,
        "dropout": 0.0,
        "drop_path": 0.1,
        "label_smoothing": 0.1,
    }
)

_SHORT_RUN = MappingProxyType(
    {
        "optimizer": "muon",
        "lr": 2e-3,
        "muon_lr": 0.02,
        "weight_decay": 0.03,
        "auto_augment": "none",
        "crop": "pad",
        "attention_dropout": 0.0,
        "drop_path": 0.0,
        "label_smoothing": 0.1,
    }
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "report": Recipe(
            purpose="settings of the report; what it does not give is from the published 200-epoch script",
            expected="CIFAR-100, cct_6_3x1, 200 epochs: 75.145% (the report), 76.71% (published, best of several runs)",
            sources={
                "SHI-Labs/Compact-Transformers examples/main.py": _SHI_200,
                "the report": {
                    "optimizer": "adamw",
                    "auto_augment": "cifar10",
                    "flip": True,
                    "warmup_fraction": 0.1,
                    "min_lr": 0.0,
                    "test_every_epoch": True,
                },
                "SHI-Labs/Compact-Transformers examples/utils/autoaug.py": {"aa_fill": 128},
            },
            differs=(
                "AutoAugment shears with nearest interpolation (published: bicubic), rotates in both directions (published: "
                "counter-clockwise only), truncates translations to whole pixels (published: rounds) and solarizes from one "
                "level lower; the learning rate is updated every step (published: every epoch)"
            ),
        ),
        "shi-300": Recipe(
            purpose="the published 300-epoch configuration: RandAugment, mixup, CutMix, random erasing",
            expected="CIFAR-100, cct_7_3x1, 300 epochs: 80.92% (published)",
            sources={
                "SHI-Labs/Compact-Transformers configs/pretrained/cct_7-3x1_cifar100_300epochs.yml": {
                    "optimizer": "adamw",
                    "lr": 6e-4,
                    "min_lr": 1e-5,
                    "weight_decay": 0.06,
                    "decay_embeddings": True,
                    "batch_size": 128,
                    "epochs": 310,
                    "warmup_epochs": 10.0,
                    "cooldown_epochs": 10.0,
                    "label_smoothing": 0.1,
                    "auto_augment": "rand",
                    "crop": "resized",
                    "flip": True,
                    "mixup": 0.8,
                    "cutmix": 1.0,
                    "mix_switch_prob": 0.5,
                    "random_erase": 0.25,
                    "attention_dropout": 0.1,
                    "dropout": 0.0,
                    "drop_path": 0.1,
                }
            },
            differs=(
                "RandAugment uses bilinear and the crop bicubic interpolation (published: one of both at random); the warm-up "
                "starts near 0 (published: at 1e-6), the cosine starts after the warm-up (published: at epoch 0), and the "
                "learning rate is updated every step (published: every epoch); mixed images are not rounded to 8 bits "
                "(published: they are); the last, partial batch is used (published: dropped)"
            ),
        ),
        "fast": Recipe(
            purpose="the best accuracy after a few epochs, for machines without a GPU",
            expected="CIFAR-100, 10 epochs: cct_2_3x2 56.1%, cct_4_3x2 55.8% (measured, one seed)",
            sources={
                "cctkit": {
                    **_SHORT_RUN,
                    "batch_size": 128,
                    "epochs": 10,
                    "flip": True,
                }
            },
        ),
        "tct-200": Recipe(
            purpose="200 epochs for tiny compact transformers (tct_3_2), also without a GPU",
            expected="CIFAR-100, tct_3_2, 200 epochs: 76.90% (measured, one seed)",
            sources={
                "cctkit": {
                    **_SHORT_RUN,
                    "batch_size": 128,
                    "epochs": 200,
                    "warmup_epochs": 5.0,
                    "flip": True,
                    "ema": 0.999,
                    "auto_augment": "cifar10",
                    "aa_prob": 0.5,
                    "cutmix": 1.0,
                    "mix_prob": 0.5,
                    "unmixed_fraction": 0.1,
                }
            },
        ),
        "demo": Recipe(
            purpose="for the digits in the package, in about a minute",
            expected="digits, mean of five seeds: cct_2_3x2 98.9%, cct_6_3x1 98.5% (measured)",
            sources={
                "cctkit": {
                    **_SHORT_RUN,
                    "batch_size": 64,
                    "epochs": 15,
                    "crop_padding": 2,
                    "flip": False,
                    "test_every_epoch": True,
                }
            },
            one_conv={"image_size": [16, 16]},
        ),
    }
)


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises: UserError if it is unknown.
    """
    if name not in RECIPES:
        remedy = did_you_mean(name, RECIPES, f"choose from {', '.join(RECIPES)}")
        raise UserError(f"unknown recipe '{safe_text(name)}'", "--recipe", remedy)
    return RECIPES[name]


def describe(name: str) -> str:
    """The purpose and expected accuracy of a recipe, in two lines."""
    row = recipe(name)
    return f"recipe {name}: {row.purpose}\n  expected: {row.expected}"


def default_recipe(dataset: str, device: str) -> str:
    """The default recipe: `demo` for the digits, `fast` on a CPU, otherwise `report`."""
    if dataset == "digits":
        return "demo"
    return "fast" if device == "cpu" else "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A configuration, and where the value of each setting comes from."""

    config: TrainConfig
    origins: Mapping[str, str]


def resolve(
    *, recipe_name: str | None, file_values: Mapping[str, Any], file_name: str = "", flags: Mapping[str, Any]
) -> Resolved:
    """The settings from, in increasing priority, defaults, recipe, config file and flags.

    Raises: UserError for an unknown recipe or setting, a value out of range, or values that contradict each other.
    """
    defaults = TrainConfig().flat()
    values = dict.fromkeys(defaults, "default")
    model = flags.get("model") or file_values.get("model") or TrainConfig().model.model
    rows = recipe(recipe_name).settings(str(model)) if recipe_name else {}
    check_settings(file_values, where=file_name or None)
    check_settings(flags)
    merged = {key: value for key, (value, _) in rows.items()}
    for layer in (file_values, flags):
        before = defaults | merged
        replaced = ["warmup_epochs"] if "warmup_fraction" in layer else []
        if layer.get("auto_augment", before["auto_augment"]) != before["auto_augment"]:
            replaced += POLICY_SETTINGS
        if layer.get("mixup", before["mixup"]) == layer.get("cutmix", before["cutmix"]) == 0:
            replaced += MIX_SETTINGS
        for key in replaced:  # they belong to a setting that this layer changes
            merged.pop(key, None)
        merged |= layer
    values |= {key: f"recipe {recipe_name} ({source})" for key, (_, source) in rows.items()}
    values |= dict.fromkeys(file_values, f"config {file_name}") | dict.fromkeys(flags, "flag")
    values |= {key: "default" for key in ("warmup_epochs", *POLICY_SETTINGS, *MIX_SETTINGS) if key not in merged}
    return Resolved(config=TrainConfig.from_flat(merged), origins=values)


def possible_settings(
    *, recipe_name: str | None, file_values: Mapping[str, Any], file_name: str = "", flags: Mapping[str, Any]
) -> dict[str, Resolved | UserError]:
    """The settings with each recipe that a run may get, by its name, or the error if they contradict it.

    Without a recipe's name that is every recipe that the data set and the device, which are not known yet, can select.

    Raises: UserError if the settings contradict all of them.
    """
    by_default = ("demo",) if flags.get("dataset", file_values.get("dataset")) == "digits" else ("fast", "report", "demo")
    found: dict[str, Resolved | UserError] = {}
    for name in (recipe_name,) if recipe_name else by_default:
        try:
            found[name] = resolve(recipe_name=name, file_values=file_values, file_name=file_name, flags=flags)
        except UserError as error:
            found[name] = error
    errors = [each for each in found.values() if isinstance(each, UserError)]
    if len(errors) == len(found):
        raise errors[0]
    return found
