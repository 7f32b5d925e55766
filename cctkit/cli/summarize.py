"""`cctkit summarize`."""

import dataclasses
import functools
import gc
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cctkit.cli import completion
from cctkit.cli.options import Json, classes_option, flag, option, with_settings
from cctkit.cli.tables import print_json, print_text, print_wide
from cctkit.config.fields import MODEL, flag_name
from cctkit.config.model import ModelConfig
from cctkit.config.settings import PRECISION_ALIASES
from cctkit.config.size import Size, parse_size
from cctkit.digests import not_verified
from cctkit.errors import UserError
from cctkit.text import safe_text

if TYPE_CHECKING:
    from torch import nn

    from cctkit.summary.view import Summary

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_OURS = ("cct", "cvt", "tct", "vit")  # prefixes of their names; any other name is torchvision's


@functools.partial(with_settings, panel=MODEL)
def summarize(
    *,
    flags: Mapping[str, Any],
    model: Annotated[
        list[str] | None,
        flag(
            "--model",
            "-m",
            text="model of the catalog or of torchvision, layer by layer; may be repeated",
            default="the catalog",
            complete=completion.models,
        ),
    ] = None,
    weights: Annotated[list[Path] | None, flag("--weights", text="weights file whose model is shown; may be repeated")] = None,
    num_classes: Annotated[int | None, classes_option(100)] = None,
    image_size: Annotated[str | None, option("image_size", default="the model's")] = None,
    depth: Annotated[int | None, flag("--depth", text="largest depth of the layers that are shown", at_least=1)] = None,
    batch_size: Annotated[int, option("batch_size", default=128)] = 128,
    dtype: Annotated[str, flag("--dtype", text="auto, float32, bf16 or fp16", default="auto")] = "auto",
    optimizer: Annotated[str, option("optimizer", default="adamw")] = "adamw",
    device: Annotated[
        str, option("device", text="auto, cpu, cuda or mps; this machine need not have it", default="auto")
    ] = "auto",
    threads: Annotated[int | None, option("threads")] = None,
    attention: Annotated[str, flag("--attention", text="auto, plain, fused or chunked", default="auto")] = "auto",
    fit: Annotated[
        str | None,
        flag(
            "--fit",
            metavar="SIZE",
            text="find the largest batch size that fits into this memory, such as 8GB (of 2^30 bytes)",
        ),
    ] = None,
    memory: Annotated[
        bool, flag("--memory/--no-memory", text="predict the memory of a training step", default="--memory")
    ] = True,
    as_json: Json = False,
) -> None:
    """Summarize models: layers and sizes as torchsummary counts them, and the true parameters, MACs and memory.

    No model runs: the memory of a training step is predicted for any batch size, precision, optimizer and device. By
    default precision, attention and dropout are those of `cctkit train` on this machine with the same model.
    """
    limit = None if fit is None else parse_bytes(fit)
    if limit is not None and not memory:
        raise UserError("--fit and --no-memory cannot be combined", "command line", "leave one of them out")
    size = None if image_size is None else parse_size(image_size)
    chosen = _models(model, weights, flags, num_classes=num_classes, image_size=size)

    from cctkit.models.build import build_without_data
    from cctkit.summary.memory import memory_device, memory_policy
    from cctkit.summary.summary import memory_of
    from cctkit.summary.summary import summarize as summary_of
    from cctkit.summary.view import catalog_table, renderable
    from cctkit.summary.walk import fold

    gc.freeze()  # keeps the collector from scanning what the imports created, which takes a fifth of the time
    summaries = [
        summary_of(each, image_size=size, name=name, batch_size=batch_size, memory=False) for name, each, size in chosen
    ]
    if memory:
        of_files, kind = len(chosen) - len(weights or ()), memory_device(device)
        policy_of = functools.cache(
            lambda drops: memory_policy(
                device=device,
                dtype=PRECISION_ALIASES.get(dtype, dtype),
                attention=attention,
                threads=threads,
                dropout=drops,
            )
        )
        for i, (_, each, size) in enumerate(chosen):
            trained = _as_trained(each, flags, kind) if i < of_files else each
            drops = isinstance(trained, ModelConfig) and trained.attention_dropout > 0
            found, fitting = memory_of(
                build_without_data(trained) if isinstance(trained, ModelConfig) else trained,
                image_size=size,
                batch_size=batch_size,
                optimizer=optimizer,
                policy=policy_of(drops),
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
    image_size: Size | None,
) -> "list[tuple[str, ModelConfig | nn.Module, Size]]":
    """The models to summarize, with names and image sizes; by default those of the catalog for 32 x 32 images."""
    from cctkit.catalog.models import MODELS, named_config

    if files and flags:
        raise UserError("the weights file sets the model's sizes", "--weights", "leave out the flags that change the model")
    if not names and not files:
        names = [name for name, row in MODELS.items() if row.image_size == 32]
    found: list[tuple[str, ModelConfig | nn.Module, Size]] = []
    for name in names or ():
        if name.startswith(_OURS):
            config = named_config(name, num_classes=num_classes or 100, image_size=image_size, **flags)
            found.append((config.name, config, config.image_size))
        else:
            model, size = _torchvision_model(name, flags, num_classes=num_classes or 100)
            found.append((name, model, image_size or size))
    for path in files or ():
        from cctkit.models.weights import read_weights

        info = read_weights(path)[1]
        if not info.digest:
            print_text(not_verified(path), stream=sys.stderr)
        given: dict[str, Any] = {"num_classes": num_classes, "image_size": image_size}
        config = dataclasses.replace(info.model, **{key: value for key, value in given.items() if value is not None})
        found.append((config.name, config, config.image_size))
    return found


def _torchvision_model(name: str, flags: Mapping[str, Any], *, num_classes: int) -> "tuple[nn.Module, Size]":
    """A model of torchvision and its image size.

    Raises: UserError if it is unknown, or if flags are given that change the models of cctkit.
    """
    if flags:
        flag = flag_name(next(iter(flags)))
        raise UserError(f"{flag} applies only to the models of cctkit, not to torchvision's", "--model", f"leave out {flag}")
    from cctkit.models.build import torchvision_without_data

    return torchvision_without_data(name, num_classes=num_classes)


def _as_trained(model: "ModelConfig | nn.Module", flags: Mapping[str, Any], device: str) -> "ModelConfig | nn.Module":
    """The model with the dropout of `cctkit train`: from the flags, otherwise from the default recipe."""
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
            {key: getattr(layer, key) for key in ("layer", "output_shape", "params", "trainable", "path", "depth")}
            for layer in summary.layers
        ],
        "memory": None if memory is None else dataclasses.asdict(memory),
    }
    if limit_bytes is not None:
        row["fit"] = {"limit_bytes": limit_bytes, "batch_size": summary.fitting_batch}
    return row
