"""`cctkit models`."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cctkit.catalog.results import DATASET_TITLES, RESULTS
from cctkit.cli import completion
from cctkit.cli.options import Json, classes_option
from cctkit.columns import Column, fitting, narrow_note, table_of
from cctkit.errors import UserError
from cctkit.text import did_you_mean, safe_text

if TYPE_CHECKING:
    from rich.console import Group

_DATASETS = ("cifar100", "flowers102", "imagenet1k")
_PUBLISHED_KEYS = ("dataset", "top1_percent", "training", "epochs", "source")
_FOLDED = 17  # characters at which accuracies wrap on a narrow terminal


def models(
    pattern: Annotated[
        str | None,
        typer.Argument(
            help="part of a name or a pattern: cct, 'cct_*_3x2', cvt_6_4", show_default=False, autocompletion=completion.models
        ),
    ] = None,
    num_classes: Annotated[
        int | None, classes_option("100 for 32 x 32 images, as in the report; otherwise the published number")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models of the catalog: sizes, parameters, multiply-adds, published accuracy."""
    from cctkit.cli.tables import print_json, print_wide

    rows = catalog_rows(pattern, num_classes=num_classes)
    if as_json:
        print_json({"schema_version": 1, "models": rows})
    else:
        print_wide(lambda width: _table(rows, width))


def catalog_rows(pattern: str | None = None, *, num_classes: int | None = None) -> list[dict[str, Any]]:
    """The catalog's models whose name or alias matches, as `models --json` prints them.

    Raises: UserError if none matches.
    """
    from cctkit.catalog.counts import count
    from cctkit.catalog.models import MODELS, named_config

    names = [name for name, row in MODELS.items() if _matches(pattern, name, row.alias)]
    if not names:
        remedy = did_you_mean(pattern or "", MODELS, "cctkit models lists all")
        raise UserError(f"no model of the catalog matches '{safe_text(pattern)}'", "models", remedy)
    rows = []
    for name in names:
        config = named_config(name, num_classes=num_classes or (100 if MODELS[name].image_size == 32 else None))
        counts = count(config)
        rows.append(
            {
                "model": name,
                "alias": MODELS[name].alias,
                "family": config.family,
                "image_size": list(config.image_size),
                "num_classes": config.num_classes,
                "num_layers": config.num_layers,
                "embed_dim": config.embed_dim,
                "mlp_dim": int(config.embed_dim * config.mlp_ratio),
                "num_heads": config.num_heads,
                "params": {"total": counts.weights, "without_embeddings": counts.without_embeddings},
                "macs": counts.macs,
                "published_params_millions": MODELS[name].published_millions,
                "published": _published(name),
            }
        )
    return rows


def _matches(pattern: str | None, name: str, alias: str | None) -> bool:
    """Whether a pattern with * and ? matches the name or alias, or text without them is a part of it."""
    if pattern is None:
        return True
    wanted = pattern.lower().replace("-", "_")
    wanted = wanted if {"*", "?", "["} & set(wanted) else f"*{wanted}*"
    return any(fnmatchcase(each, wanted) for each in (name, alias or name))


def _published(name: str) -> list[dict[str, Any]]:
    """The published accuracies of a model with their sources: per data set the one after 200 epochs if there is one."""
    from cctkit.catalog.pretrained import PRETRAINED

    found: dict[str, dict[str, Any]] = {}
    for result in RESULTS:
        if result.name != name or result.kind == "final result" or result.dataset not in _DATASETS:
            continue
        if result.epochs == 200 or result.dataset not in found:
            found[result.dataset] = {key: getattr(result, key) for key in _PUBLISHED_KEYS}
    if name in PRETRAINED:
        row = PRETRAINED[name]
        found["imagenet1k"] = {
            "dataset": "imagenet1k",
            "top1_percent": row.top1_percent,
            "training": "torchvision's weights",
            "epochs": None,
            "source": row.url,
        }
    return list(found.values())


def _table(rows: Sequence[Mapping[str, Any]], width: int | None) -> "Group":
    from rich.console import Group
    from rich.text import Text

    columns, left_out = fitting(_columns(rows), width)
    note = [Text(), Text(narrow_note(left_out, "--json has them"))] if left_out else []
    return Group(table_of(columns), *note)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    def column(heading: str, text: Callable[[Mapping[str, Any]], str], **more: Any) -> Column:
        return Column(heading=(heading,), cells=[text(row) for row in rows], **more)

    def number(heading: str, key: str, drop: int) -> Column:
        return column(heading, lambda row: str(row[key]), drop=drop)

    return [
        column("model", lambda row: row["model"], left=True),
        column("family", lambda row: row["family"], left=True, drop=7),
        column("pixels", _pixels, drop=8),
        number("layers", "num_layers", 4),
        number("width", "embed_dim", 3),
        number("MLP", "mlp_dim", 2),
        number("heads", "num_heads", 2),
        number("classes", "num_classes", 6),
        column("params", lambda row: f"{row['params']['total']:,}"),
        column("published M", lambda row: _or_empty(row["published_params_millions"]), drop=5),
        column("MACs G", lambda row: f"{row['macs'] / 1e9:.3f}"),
        column("published top-1 %", _accuracies, left=True, folded=_FOLDED),
        column("alias", lambda row: row["alias"] or "", left=True, drop=1),
    ]


def _pixels(row: Mapping[str, Any]) -> str:
    height, width = row["image_size"]
    return str(height) if height == width else f"{height}x{width}"


def _accuracies(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{each['top1_percent']:.2f} {DATASET_TITLES[each['dataset']]}" for each in row["published"])


def _or_empty(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
