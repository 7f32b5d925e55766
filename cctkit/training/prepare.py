"""What a run needs before its first step: data, device policy, initial weights and checks."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from cctkit.catalog.models import model_config
from cctkit.catalog.recipes import Resolved, default_recipe
from cctkit.config.model import ModelConfig
from cctkit.config.settings import TrainConfig
from cctkit.data.dataset import split_images
from cctkit.data.images import DEFAULT_SIZE
from cctkit.data.overlap import copies_notice
from cctkit.data.splits import Dataset
from cctkit.engine.device import DevicePolicy, choose_policy, seeded
from cctkit.engine.distributed import DistContext
from cctkit.engine.parallel import uses_fsdp
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.text import counted
from cctkit.training.collective import open_once
from cctkit.training.job import Session
from cctkit.training.reporter import Reporter
from cctkit.training.request import Request


def policy_of(config: TrainConfig) -> DevicePolicy:
    """The device policy of a run with these settings on this machine."""
    return choose_policy(
        device=config.device,
        precision=config.precision,
        threads=config.threads,
        compile=config.compile,
        dropout=drops_attention(config),
    )


def drops_attention(config: TrainConfig) -> bool:
    """Whether training uses attention dropout; a frozen backbone does not."""
    return config.model.attention_dropout > 0 and config.freeze == "none"


def kept_policy(config: TrainConfig, kept: Mapping[str, Any]) -> DevicePolicy:
    """The policy that a run started with, from `kept`, its `env.json`; on another device, a new policy.

    Runs of older versions may have used attention whose dropout masks do not come from the step's seed; it is replaced.
    """
    policy = policy_of(config.replace(precision=kept["precision"]))
    if policy.device != kept["device"]:
        return policy
    attention = seeded(kept["attention"], device=policy.device, dropout=drops_attention(config))
    return replace(policy, attention=attention, attention_in_evaluation=kept["attention_in_evaluation"])


def load(request: Request, device: str, session: Session) -> tuple[Dataset, Resolved, str]:
    """The data set, the settings, and the recipe's name, whose default depends on the data set and the device.

    Only if the embedded digits replace CIFAR-100, which is not there, the recipe sets another image size and they are loaded
    again.
    """
    reporter, context = session.reporter, session.context
    data, named_size = request.early.data, model_config(request.early.model).image_size
    if data.image_size is None and named_size != DEFAULT_SIZE and not Path(data.dataset or "").is_file():
        data = replace(data, image_size=named_size)  # a model whose name has another size
    images = open_once(context, data, progress=session.on_data, notify=reporter.notice)
    recipe = request.recipe or default_recipe(images.name, device)
    with context.sync_errors():
        resolved = request.resolve(recipe)
    place = images.place or images.name
    config = resolved.config.replace(dataset=place, image_size=resolved.config.data.image_size or data.image_size)
    if replace(config.data, dataset=None) != replace(data, dataset=None):
        images = open_once(context, config.data, progress=session.on_data, notify=reporter.notice)
    with context.sync_errors():
        dataset = split_images(images, config.data)
    if dataset.unverified:
        reporter.notice(dataset.unverified)
    if context.is_rank0 and (notice := copies_notice(dataset)):
        reporter.notice(notice)
    return dataset, _with_fitting_batch(Resolved(config=config, origins=resolved.origins), dataset, reporter), recipe


def _with_fitting_batch(resolved: Resolved, dataset: Dataset, reporter: Reporter) -> Resolved:
    """Reduce a batch size that the user has not chosen to the number of training images."""
    size, origin, images = resolved.config.batch_size, resolved.origins["batch_size"], len(dataset.train)
    if size <= images or origin == "flag" or origin.startswith("config "):
        return resolved
    reporter.notice(f"--batch-size is {images} instead of {size}, since there are {counted(images, 'training image')}")
    origins = {**resolved.origins, "batch_size": f"all training images, fewer than the {size} of: {origin}"}
    return Resolved(config=resolved.config.replace(batch_size=images), origins=origins)


def initial_model(
    config: TrainConfig, architecture: ModelConfig, dataset: Dataset, session: Session
) -> tuple[nn.Module, dict[str, Any] | None]:
    """The model with its initial weights, and what was loaded from `--init`; None without it.

    One process per machine goes first, so that the others find what it has downloaded.
    """
    model = build_model(architecture, seed=config.seed)
    source = config.init
    if source is None:
        return model, None

    def load_weights() -> dict[str, Any]:
        from cctkit.training.initial_weights import initialise

        report = initialise(
            model,
            source,
            config=architecture,
            class_names=dataset.class_names,
            may_download=config.data.download,
            progress=session.on_data,
        )
        session.reporter.notice("\n".join(report.lines()))
        return asdict(report)

    return model, session.context.first_of_machine_first(load_weights)


def normalised_as(dataset: Dataset, report: Mapping[str, Any] | None) -> Dataset:
    """`dataset` with the mean and std that the pretrained weights were trained with, from their `InitReport`."""
    if not report or report["mean"] is None:
        return dataset
    mean, std = report["mean"], report["std"]
    return replace(dataset, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def check_against_data(config: TrainConfig, dataset: Dataset, policy: DevicePolicy, context: DistContext) -> ModelConfig:
    """Check the settings against the data set on all ranks; return the model configuration.

    Raises: UserError.
    """
    with context.sync_errors():
        check_ranks(config, policy, context)
        images = len(dataset.train)
        if config.batch_size > images:
            raise UserError(
                f"the batch of {config.batch_size} is larger than the {images:,} training images",
                "--batch-size",
                f"at most {images}",
            )
        if dataset.test is None:
            raise UserError(f"{dataset.name} has no test images", "--dataset", "add a folder test/ beside train/")
        if config.early_stopping is not None and dataset.val is None:
            raise UserError("early stopping needs validation images", "--early-stopping", "add --val-fraction 0.1")
        if config.choose_by != "top1" and dataset.val is None:
            raise UserError("--choose-by needs validation images", "--choose-by", "add --val-fraction 0.1")
        return architecture_of(config, dataset)


def architecture_of(config: TrainConfig, dataset: Dataset) -> ModelConfig:
    """The model configuration for the classes and the image size of `dataset`.

    Raises: UserError.
    """
    return model_config(config.model, num_classes=len(dataset.class_names), image_size=dataset.image_size)


def check_ranks(config: TrainConfig, policy: DevicePolicy, context: DistContext) -> None:
    """Check what does not work with several ranks. They share the batch in pairs of images: see `share_of_batch`.

    Raises: UserError.
    """
    if context.world_size > 1 and config.batch_size < 2 * context.world_size:
        raise UserError(
            f"a batch of {config.batch_size} images is too small for {context.world_size} processes, which get pairs of images",
            "--batch-size",
            f"at least {2 * context.world_size}",
        )
    if uses_fsdp(config, context) and policy.precision == "fp16":  # each rank would find its own loss scale
        raise UserError("fp16 is not supported with --shard", "--precision", "use bf16 or float32")


def first_line(
    config: TrainConfig, recipe_name: str, dataset: Dataset, policy: DevicePolicy, context: DistContext, length: str
) -> str:
    """Model, data set, recipe, length, device and processes, in one line."""
    height, width = dataset.image_size
    stored_height, stored_width = dataset.stored_size
    how = f" from {stored_height}x{stored_width}" if dataset.is_enlarged else ", streamed" if dataset.is_streamed else ""
    return (
        f"{config.model.model} on {dataset.name} ({counted(len(dataset.train), 'image')}, {len(dataset.class_names)} classes, "
        f"{height}x{width}{how}), recipe {recipe_name}, {length}, {policy.device} {policy.precision}"
        + (f", {context.world_size} processes" if context.world_size > 1 else "")
        + (f", {'sharded' if uses_fsdp(config, context) else 'not sharded: there is only one process'}" if config.shard else "")
    )
