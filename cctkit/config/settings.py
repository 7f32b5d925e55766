"""All settings of a training run: `TrainConfig` with its groups.

Each field has its help, flags and range, from which the command line, TOML files and checks are made. In files a
configuration is flat, and its keys are named as the flags.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cctkit.config.fields import AUGMENT, DATA, MACHINE, MAIN, OPTIMIZER, RUN, Validated, checked, flag_name, setting
from cctkit.config.group_by import check_group_by
from cctkit.config.model import ModelOptions
from cctkit.config.size import MAX_PIXELS, Size
from cctkit.errors import UserError
from cctkit.text import did_you_mean, safe_text

PRECISION_ALIASES: Mapping[str, str] = {"fp32": "float32"}
POLICY_SETTINGS = ("aa_fill", "aa_interpolation", "aa_prob")
"""Settings that only AutoAugment and RandAugment use."""
MIX_SETTINGS = ("mix_prob", "unmixed_fraction")
"""Settings that only mixup and CutMix use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Validated):
    """The images, how they are split, and how they are resized."""

    dataset: str | None = setting(
        None,
        "a folder of images, a packed file, or a name: digits, cifar10, cifar100, mnist, fashion_mnist",
        panel=MAIN,
        flags=("-d",),
    )
    data_dir: str | None = setting(
        None, "directory of named data sets (default: CCTKIT_DATA, or the user's cache)", panel=DATA, flags=("--data-path",)
    )
    image_size: Size | None = setting(None, "image size in pixels: 32, or HEIGHTxWIDTH", panel=DATA)
    resize_mode: Literal["crop", "squash"] = setting(
        "crop", "for images with another aspect ratio: crop (resize the short side, crop the centre) or squash", panel=DATA
    )
    val_fraction: float = setting(
        0.0, "fraction of the training images held out for validation", panel=DATA, at_least=0, below=1
    )
    split_seed: int = setting(0, "seed of the validation and test splits", panel=DATA, at_least=0)
    group_by: str | None = setting(
        None,
        "keep images of one group in one split: a folder level inside of the class (1), or a regular expression for the path",
        panel=DATA,
    )
    skip_bad: bool = setting(False, "skip broken images and list them", panel=DATA)
    max_pixels: int = setting(MAX_PIXELS, "maximum number of pixels per image", panel=DATA, at_least=1)
    download: bool = setting(True, "download a named data set if it is missing", panel=DATA)
    stream: bool = setting(
        False, "decode the images of a folder again in every epoch, for folders too large to pack", panel=DATA
    )
    workers: int | None = setting(
        None,
        "worker processes that load images (default: 0; with --stream one per core)",
        panel=MACHINE,
        flags=("-j",),
        at_least=0,
        may_change=True,
    )

    def __post_init__(self) -> None:
        Validated.__post_init__(self)
        if self.group_by is not None:
            check_group_by(self.group_by)
        if self.stream and self.skip_bad:
            raise UserError(
                "--skip-bad cannot be combined with --stream, which decodes images during training",
                "--skip-bad",
                "leave out --stream, so that broken images are found first, or leave out --skip-bad",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig(Validated):
    """Augmentation, in this order: policy, crop, flip, normalise, mix, erase."""

    auto_augment: Literal["cifar10", "rand", "none"] = setting(
        "cifar10",
        "AutoAugment's CIFAR-10 policy, RandAugment (m9, std 0.5, increasing), or none",
        panel=AUGMENT,
        flags=("--aa",),
        off="none",
    )
    aa_fill: int | None = setting(
        None,
        "fill value of AutoAugment and RandAugment, 0 to 255; otherwise 0, or the data set's mean for RandAugment",
        panel=AUGMENT,
        at_least=0,
        at_most=255,
    )
    aa_interpolation: Literal["nearest", "bilinear"] | None = setting(
        None,
        "interpolation of AutoAugment and RandAugment: nearest or bilinear; otherwise nearest, or bilinear for RandAugment",
        panel=AUGMENT,
    )
    aa_prob: float = setting(
        1.0, "fraction of the images that AutoAugment or RandAugment is applied to", panel=AUGMENT, above=0, at_most=1
    )
    crop: Literal["pad", "resized", "none"] = setting(
        "pad", "random crop: pad (RandomCrop with padding), resized (RandomResizedCrop) or none", panel=AUGMENT, off="none"
    )
    crop_padding: int = setting(4, "padding in pixels for `--crop pad`", panel=AUGMENT, at_least=0)
    crop_scale: float = setting(
        0.8, "smallest fraction of the area for `--crop resized`; 0.08 is usual on ImageNet", panel=AUGMENT, above=0, at_most=1
    )
    flip: bool = setting(True, "flip images horizontally with probability 0.5", panel=AUGMENT)
    mixup: float = setting(0.0, "mixup alpha (0: off)", panel=AUGMENT, at_least=0)
    cutmix: float = setting(0.0, "CutMix alpha (0: off)", panel=AUGMENT, at_least=0)
    mix_switch_prob: float = setting(
        0.5, "probability of CutMix if mixup and CutMix are both on", panel=AUGMENT, at_least=0, at_most=1
    )
    mix_prob: float = setting(
        1.0,
        "fraction of the batches that mixup or CutMix is applied to",
        panel=AUGMENT,
        flags=("--mixup-prob",),
        above=0,
        at_most=1,
    )
    unmixed_fraction: float = setting(
        0.0, "fraction of the epochs, the last ones, without mixup and CutMix", panel=AUGMENT, at_least=0, below=1
    )
    random_erase: float = setting(0.0, "random erasing probability", panel=AUGMENT, flags=("--reprob",), at_least=0, at_most=1)

    def __post_init__(self) -> None:
        Validated.__post_init__(self)
        if self.auto_augment == "none":
            add = "--auto-augment cifar10 or --auto-augment rand"
            self._refuse(POLICY_SETTINGS, without="AutoAugment or RandAugment", add=add)
        if self.mixup == self.cutmix == 0:
            self._refuse(MIX_SETTINGS, without="mixup or CutMix", add="--mixup or --cutmix")

    def _refuse(self, keys: Sequence[str], *, without: str, add: str) -> None:
        """Raise UserError if one of these settings, which have no effect here, is not at its default."""
        for item in dataclasses.fields(self):
            if item.name in keys and getattr(self, item.name) != item.default:
                flag = flag_name(item.name)
                raise UserError(f"{flag} has no effect without {without}", flag, f"leave out {flag}, or add {add}")


_GROUPS: Mapping[str, Any] = {"model": ModelOptions, "data": DataConfig, "augment": AugmentConfig}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Validated):
    """All settings of a training run. `flat()` and `from_flat()` convert it to and from the form used in files."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    init: str | None = setting(None, "pretrained weights: a run, a weights file of any known layout, or a name", panel=MAIN)
    epochs: int = setting(200, "passes over the training images", panel=MAIN, flags=("-e",), at_least=1)
    batch_size: int = setting(128, "images per step, over all devices", panel=MAIN, flags=("-b",), at_least=1)
    lr: float = setting(5e-4, "peak learning rate (AdamW)", panel=MAIN, above=0)
    optimizer: Literal["adamw", "muon"] = setting(
        "adamw", "adamw, or muon for the blocks' matrices with adamw for the other weights", panel=OPTIMIZER
    )
    muon_lr: float = setting(0.02, "peak learning rate of Muon", panel=OPTIMIZER, above=0)
    weight_decay: float = setting(0.03, "decoupled weight decay", panel=OPTIMIZER, flags=("--wd",), at_least=0)
    decay_all: bool = setting(
        False, "apply weight decay to norms, biases and embeddings too, as the published script does", panel=OPTIMIZER
    )
    decay_embeddings: bool = setting(
        False, "apply weight decay to positional and class embeddings too, as timm does for these models", panel=OPTIMIZER
    )
    warmup_fraction: float = setting(0.1, "fraction of steps used for linear warm-up", panel=OPTIMIZER, at_least=0, below=1)
    warmup_epochs: float | None = setting(None, "warm-up in epochs (overrides --warmup-fraction)", panel=OPTIMIZER, at_least=0)
    min_lr: float = setting(0.0, "final learning rate", panel=OPTIMIZER, at_least=0)
    cooldown_epochs: float = setting(
        0.0, "epochs at the end with the learning rate at its minimum", panel=OPTIMIZER, at_least=0
    )
    label_smoothing: float = setting(0.1, "label smoothing", panel=OPTIMIZER, flags=("--smoothing",), at_least=0, below=1)
    class_weights: float | None = setting(
        None,
        "divide the loss of an image by the number of training images of its class, to the power of POWER (1 if none is given)",
        panel=OPTIMIZER,
        above=0,
        at_most=1,
        alone=1.0,
    )
    balanced_sampling: float | None = setting(
        None,
        "draw images of small classes more often: a class of m images in proportion to m^(1 - POWER) (1 if none is given: all "
        "classes equally often)",
        panel=DATA,
        above=0,
        at_most=1,
        alone=1.0,
    )
    clip_grad: float | None = setting(None, "maximum norm of the gradient (clipping)", panel=OPTIMIZER, above=0)
    accumulate: int = setting(1, "gradient accumulation steps", panel=OPTIMIZER, flags=("--grad-accum-steps",), at_least=1)
    ema: float | None = setting(
        None,
        "EMA decay, at most (1 + t) / (10 + t) at step t; the EMA weights are evaluated and saved",
        panel=OPTIMIZER,
        above=0,
        below=1,
    )
    freeze: Literal["none", "backbone"] = setting("none", "backbone: train only the head; needs --init", panel=OPTIMIZER)
    layer_decay: float = setting(
        1.0,
        "layer-wise learning-rate decay (1: off)",
        panel=OPTIMIZER,
        above=0,
        at_most=1,
    )
    choose_by: Literal["top1", "balanced", "loss"] = setting(
        "top1",
        "what the best epoch and early stopping go by on the validation images: top1, balanced (balanced accuracy) or loss",
        panel=OPTIMIZER,
    )
    early_stopping: int | None = setting(
        None,
        "stop after this many epochs without a better validation top-1, or what --choose-by says",
        panel=OPTIMIZER,
        at_least=1,
    )
    seed: int = setting(0, "random seed", panel=RUN, at_least=0)
    test_every_epoch: bool = setting(
        False, "evaluate the test images after every epoch, not only at the end", panel=RUN, may_change=True
    )
    track: Literal["none", "tensorboard"] = setting(
        "none",
        "tensorboard: write figures, settings and pictures to RUN/tensorboard, for TensorBoard",
        panel=RUN,
        off="none",
        may_change=True,
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "auto, cpu, cuda or mps", panel=MACHINE, may_change=True)
    precision: Literal["auto", "float32", "bf16", "fp16"] = setting(
        "auto", "auto (the faster), float32, bf16 or fp16", panel=MACHINE, aliases=PRECISION_ALIASES
    )
    threads: int | None = setting(
        None, "CPU threads (default: the number of cores)", panel=MACHINE, at_least=1, may_change=True
    )
    compile: bool = setting(False, "compile the model with torch.compile (worthwhile on CUDA)", panel=MACHINE, may_change=True)
    shard: bool = setting(
        False,
        "shard the model over the processes of torchrun with FSDP2, if it does not fit on one device",
        panel=MACHINE,
        may_change=True,
    )

    def __post_init__(self) -> None:
        Validated.__post_init__(self)
        if self.accumulate > self.batch_size:
            raise UserError(f"--accumulate {self.accumulate} is larger than the batch size, {self.batch_size}", "--accumulate")
        if self.min_lr > self.lr:
            raise UserError(f"min_lr {self.min_lr} is above lr {self.lr}", "--min-lr")
        warmup = self.epochs * self.warmup_fraction if self.warmup_epochs is None else self.warmup_epochs
        if warmup + self.cooldown_epochs > self.epochs + 1e-6:  # 0.675 of 3 is 2.0250000000000004
            raise UserError(
                f"a warm-up of {warmup:g} and a cool-down of {self.cooldown_epochs:g} epochs do not fit into {self.epochs}",
                "--warmup-epochs, --cooldown-epochs",
                "shorten them, or increase --epochs",
            )
        if self.shard and self.optimizer == "muon":
            raise UserError("Muon cannot be combined with --shard: it needs whole matrices", "--shard", "add --optimizer adamw")
        if self.class_weights is not None and self.balanced_sampling is not None:
            raise UserError(
                "--class-weights and --balanced-sampling together correct the imbalance twice",
                "--class-weights, --balanced-sampling",
                "leave one of them out",
            )
        if self.freeze != "none" and self.init is None:
            raise UserError(
                "--freeze backbone needs --init",
                "--freeze",
                "pass pretrained weights with --init: a weights file, or a name such as vit_b_16",
            )
        if self.freeze != "none" and self.layer_decay < 1:
            raise UserError(
                "--layer-decay has no effect with --freeze backbone",
                "--layer-decay",
                "leave out --layer-decay or --freeze",
            )

    def flat(self) -> dict[str, Any]:
        """All settings in one mapping, as JSON values."""
        values = dataclasses.asdict(self)
        groups = [values.pop(group) for group in _GROUPS]
        return {key: _as_json(value) for part in (*groups, values) for key, value in part.items()}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any], where: str | None = None) -> "TrainConfig":
        """The configuration with these settings, and defaults for the rest.

        Raises: UserError for an unknown key, a wrong type or a value out of range.
        """
        check_settings(values, where)
        try:
            groups = {name: group(**_fields_of(group, values)) for name, group in _GROUPS.items()}
            return cls(**_fields_of(cls, values) | groups)  # both have the key `model`
        except UserError as error:
            raise UserError(error.what, safe_text(where) if where else error.where, error.remedy) from error

    def augment_in(self, epoch: int) -> AugmentConfig:
        """The augmentation in `epoch`, counted from 0: the last `unmixed_fraction` are without mixup and CutMix."""
        if epoch < self.epochs - round(self.epochs * self.augment.unmixed_fraction):
            return self.augment
        return dataclasses.replace(self.augment, mixup=0.0, cutmix=0.0, mix_prob=1.0, unmixed_fraction=0.0)

    def replace(self, **changes: Any) -> "TrainConfig":
        """A copy with some settings changed."""
        return TrainConfig.from_flat(self.flat() | changes)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fields_of(cls: type[Validated], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose keys are fields of a class."""
    return {item.name: values[item.name] for item in dataclasses.fields(cls) if item.name in values}  # type: ignore[arg-type]


def settings() -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """(field, annotation) of every setting of a training run, in the order of the help."""
    for cls in (ModelOptions, DataConfig, TrainConfig, AugmentConfig):
        hints = typing.get_type_hints(cls)
        yield from ((item, hints[item.name]) for item in dataclasses.fields(cls) if "help" in item.metadata)


def check_settings(values: Mapping[str, Any], where: str | None = None) -> dict[str, Any]:
    """Check each of some settings by itself, and return them in the form of `flat()`.

    Raises: UserError for an unknown key, a wrong type or a value out of range.
    """
    known = {item.name: (item, hint) for item, hint in settings()}
    flat = {}
    for key, value in values.items():
        if key not in known:
            remedy = did_you_mean(key, known, "cctkit train --help lists all settings")
            raise UserError(f"unknown setting '{safe_text(key)}'", safe_text(where) if where else None, remedy)
        item, hint = known[key]
        try:
            flat[key] = _as_json(checked(key, value, hint, item.metadata))
        except UserError as error:
            raise UserError(error.what, safe_text(where) if where else error.where, error.remedy) from error
    return flat
