"""`cctkit summarize`."""

import dataclasses
import gc
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cctkit.cli import completion
from cctkit.cli.options import Json, option, with_settings
from cctkit.config.fields import flag_name
from cctkit.config.settings import MODEL, PRECISION_ALIASES, ModelConfig
from cctkit.config.size import Size, parse_size
from cctkit.digests import not_verified
from cctkit.errors import UserError
from cctkit.text import safe_text

if TYPE_CHECKING:
    from torch import nn

    from cctkit.engine.device import DevicePolicy
    from cctkit.summary.view import Summary

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_OURS = ("cct", "cvt", "tct", "vit")  # how their names begin; any other is torchvision's
_SIDE = 32  # the catalog's table is of the models for images of this many pixels


@partial(with_settings, panel=MODEL)
def summarize(
    *,
    flags: Mapping[str, Any],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="model of the catalog or of torchvision, layer by layer; may be repeated (default: the catalog)",
            show_default=False,
            autocompletion=completion.models,
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", help="weights file whose model is shown; may be repeated", show_default=False),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", help="number of classes (default: 100)", min=1, show_default=False)
    ] = None,
    image_size: Annotated[str | None, option("image_size", default="the model's")] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", help="largest depth of the layers that are shown", min=1, show_default=False)
    ] = None,
    batch_size: Annotated[int, option("batch_size", default=128)] = 128,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bf16 or fp16")] = "auto",
    optimizer: Annotated[str, option("optimizer", default="adamw")] = "adamw",
    device: Annotated[
        str, option("device", text="auto, cpu, cuda or mps; this machine need not have it", default="auto")
    ] = "auto",
    threads: Annotated[int | None, option("threads")] = None,
    attention: Annotated[str, typer.Option("--attention", help="auto, plain, fused or chunked")] = "auto",
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            metavar="SIZE",
            help="find the largest batch size that fits into this memory, such as 8GB (of 2^30 bytes)",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="predict the memory of a training step")] = True,
    as_json: Json = False,
) -> None:
    """Summarize models: layers and sizes as torchsummary counts them, and the true parameters, MACs and memory.

    No model runs: the memory of a training step is predicted for any batch size, precision, optimizer and device. By
    default precision, attention and dropout are those of `cctkit train` on this machine with the same model.
    """
    limit = None if fit is None else parse_bytes(fit)
    if limit is not None and not memory:
        raise UserError("--fit cannot be used with --no-memory", "command line", "leave one of them out")
    chosen = _models(model, weights, flags, num_classes=num_classes, image_size=image_size)

    from cctkit.cli.tables import print_json, print_wide
    from cctkit.models.build import build_without_data
    from cctkit.summary.memory import memory_device, memory_policy
    from cctkit.summary.summary import memory_of
    from cctkit.summary.summary import summarize as summary_of
    from cctkit.summary.view import catalog_table, renderable
    from cctkit.summary.walk import fold

    gc.freeze()  # what the imports made stays: looking through it for garbage, time and again, takes a fifth of the time
    summaries = [
        summary_of(each, image_size=size, name=name, batch_size=batch_size, memory=False) for name, each, size in chosen
    ]
    if memory:
        of_files, kind = len(chosen) - len(weights or ()), memory_device(device)
        wishes: Any = {
            "device": device,
            "dtype": PRECISION_ALIASES.get(dtype, dtype),
            "attention": attention,
            "threads": threads,
        }
        policies: dict[bool, DevicePolicy] = {}
        for i, (_, each, size) in enumerate(chosen):
            trained = _as_trained(each, flags, kind) if i < of_files else each
            drops = isinstance(trained, ModelConfig) and trained.attention_dropout > 0
            policies[drops] = policies.get(drops) or memory_policy(**wishes, dropout=drops)
            found, fitting = memory_of(
                build_without_data(trained) if isinstance(trained, ModelConfig) else trained,
                image_size=size,
                batch_size=batch_size,
                optimizer=optimizer,
                policy=policies[drops],
                fit_bytes=limit,
            )
            summaries[i] = dataclasses.replace(summaries[i], memory=found, fitting_batch=fitting)
    if not (model or weights):
        summaries.sort(key=lambda summary: summary.params)
    if depth is not None:
        summaries = [dataclasses.replace(summary, layers=fold(summary.layers, depth)) for summary in summaries]
    if as_json:
        print_json({"schema_version": 1, "models": [as_dict(summary, limit) for summary in summaries]})
    elif model or weights:
        print_wide(lambda width: renderable(*summaries, width=width))
    else:
        print_wide(lambda width: catalog_table(summaries, width=width))


def parse_bytes(text: str) -> int:
    """Bytes of "8GB", "8 GiB", "500M" or "1073741824B"; K, M, G and T are powers of 1,024, as in torchsummary's MB.

    Raises: UserError.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?B)?\s*", text.upper())
    if found and not found[2] and not found[3]:
        raise UserError(f"'{safe_text(text)}' has no unit", "--fit", f"--fit {found[1]}GB, or {found[1]}MB")
    if not found or float(found[1]) == 0:
        raise UserError(f"expected a size such as 8GB or 500MB, got '{safe_text(text)}'", "--fit")
    return int(float(found[1]) * _UNITS[found[2]])


def _models(
    names: list[str] | None,
    files: list[Path] | None,
    flags: Mapping[str, Any],
    *,
    num_classes: int | None,
    image_size: str | None,
) -> "list[tuple[str, ModelConfig | nn.Module, Size]]":
    """The models that are asked for with their names and image sizes, those of the catalog at 32 pixels where none is."""
    from cctkit.catalog.models import MODELS, named_config

    if files and flags:
        raise UserError("the model's sizes are those of the weights file", "--weights", "leave the flags of the model out")
    if not names and not files:
        names = [name for name, row in MODELS.items() if row.image_size == _SIDE]
    found: list[tuple[str, ModelConfig | nn.Module, Size]] = []
    for name in names or ():
        if not name.startswith(_OURS):
            found.append((name, *_torchvision_model(name, flags, num_classes=num_classes or 100, image_size=image_size)))
            continue
        config = named_config(name, num_classes=num_classes or 100, image_size=image_size, **flags)
        found.append((config.name, config, config.image_size))
    given: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if image_size is not None:
        given["image_size"] = parse_size(image_size)
    if files:
        from cctkit.models.weights import read_weights

        infos = [read_weights(path)[1] for path in files]
        sys.stderr.writelines(not_verified(path) + "\n" for path, info in zip(files, infos, strict=True) if not info.digest)
        configs = [dataclasses.replace(info.model, **given) for info in infos]
        found += [(config.name, config, config.image_size) for config in configs]
    return found


def _torchvision_model(
    name: str, flags: Mapping[str, Any], *, num_classes: int, image_size: str | None
) -> "tuple[nn.Module, Size]":
    """A model of torchvision's and the size of its images.

    Raises: UserError where there is none of this name, or where flags of our models are given for it.
    """
    if flags:
        raise UserError(
            f"{flag_name(next(iter(flags)))} is of the models of cctkit, not of torchvision's", "--model", "leave it out"
        )
    from cctkit.models.build import torchvision_without_data

    model, size = torchvision_without_data(name, num_classes=num_classes)
    return model, size if image_size is None else parse_size(image_size)


def _as_trained(model: "ModelConfig | nn.Module", flags: Mapping[str, Any], device: str) -> "ModelConfig | nn.Module":
    """A model of ours with the dropout that `cctkit train` gives it: that of the flags, else of the recipe by default."""
    if not isinstance(model, ModelConfig):
        return model
    from cctkit.catalog.recipes import default_recipe, resolve

    recipe = default_recipe("cifar100", device)
    options = resolve(recipe_name=recipe, file_values={}, flags={**flags, "model": model.name}).config.model
    rates = {name: getattr(options, name) for name in ("dropout", "attention_dropout", "drop_path")}
    return dataclasses.replace(model, **rates)


def as_dict(summary: "Summary", limit_bytes: int | None) -> dict[str, Any]:
    """One model of `summarize --json`, schema version 1."""
    block, memory = summary.torchsummary, summary.memory
    row: dict[str, Any] = {
        "model": summary.model,
        "image_size": list(summary.image_size),
        "num_classes": summary.num_classes,
        "batch_size": summary.batch_size,
        "params": {
            "total": summary.params,
            "trainable": summary.trainable_params,
            "frozen": summary.params - summary.trainable_params,
            "without_a_layer": dict(summary.bare),
        },
        "torchsummary": None if block is None else dataclasses.asdict(block),
        "macs": summary.macs,
        "macs_without_attention": summary.macs - summary.macs_attention,
        "layers": [
            {
                "layer": layer.layer,
                "output_shape": layer.output_shape,
                "params": layer.params,
                "trainable": layer.trainable,
                "path": layer.path,
                "depth": layer.depth,
            }
            for layer in summary.layers
        ],
        "memory": None if memory is None else dataclasses.asdict(memory),
    }
    if limit_bytes is not None:
        row["fit"] = {"limit_bytes": limit_bytes, "batch_size": summary.fitting_batch}
    return row
