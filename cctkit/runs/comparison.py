"""Published results and the user's own runs as rows, ranked in a table for each data set and kind of training."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cctkit.catalog.counts import Counts, count
from cctkit.catalog.models import family_of, model_config, named_config
from cctkit.catalog.results import FROM_SCRATCH, PublishedResult
from cctkit.catalog.score import pareto_front, score
from cctkit.config.settings import TrainConfig
from cctkit.errors import UserError
from cctkit.runs.rundir import RunPaths
from cctkit.runs.runfiles import malformed, read_object
from cctkit.text import safe_text

SCORED_DATASET = "cifar100"
_CLASSES = {"cifar100": 100, "cifar10": 10, "flowers102": 102, "imagenet1k": 1000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A result. params_millions: as published, for a run its true count; pareto: on its table's front by that,
    pareto_true: by the true count, where it is known.
    """

    model: str
    family: str
    dataset: str
    training: str
    kind: str
    top1_percent: float
    params_millions: float | None
    source: str
    fingerprint: str = ""
    top1_interval_percent: tuple[float, float] | None = None
    num_images: int | None = None
    true_params: int | None = None
    params_without_embeddings: int | None = None
    macs: int | None = None
    epochs: int | None = None
    run: str | None = None
    recipe: str | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()
    pareto: bool = False
    pareto_true: bool = False

    @property
    def is_own(self) -> bool:
        """Whether it is a run of the user's."""
        return self.kind == "run"

    @property
    def score(self) -> float | None:
        return self._score(self.params_millions)

    @property
    def score_true_params(self) -> float | None:
        return self._score(_millions(self.true_params))

    @property
    def score_without_embeddings(self) -> float | None:
        return self._score(_millions(self.params_without_embeddings))

    @property
    def true_params_millions(self) -> float | None:
        return _millions(self.true_params)

    @property
    def table(self) -> tuple[str, str, str]:
        """The rows with which this one is ranked: of the same images, and the same use of other images."""
        return self.dataset, self.fingerprint, self.training

    def _score(self, millions: float | None) -> float | None:
        """None under 70%, and on any data set but the score's."""
        return score(self.top1_percent, millions) if millions is not None and self.dataset == SCORED_DATASET else None


def _millions(params: int | None) -> float | None:
    return None if params is None else params / 1e6


def published_row(result: PublishedResult) -> Row:
    """A row of the catalog, with what is true of the model for that data set beside."""
    true: Counts | None = None
    if result.name is not None and result.dataset in _CLASSES:
        true = count(named_config(result.name, num_classes=_CLASSES[result.dataset]))
    return Row(
        model=result.model,
        family=result.family,
        dataset=result.dataset,
        training=result.training,
        kind=result.kind,
        top1_percent=result.top1_percent,
        params_millions=result.params_millions,
        source=result.source,
        true_params=true.weights if true else None,
        params_without_embeddings=true.without_embeddings if true else None,
        macs=true.macs if true else None,
        epochs=result.epochs,
        notes=result.notes,
    )


def find_runs(root: Path) -> tuple[list[Row], dict[str, str]]:
    """The finished runs in `root`, or `root` itself where it is a run; and why each of the others was skipped.

    Raises: UserError where there is no such directory.
    """
    if not root.is_dir():
        raise UserError(
            "there is no such directory of runs", safe_text(root), "train one: cctkit train, or name another: --runs DIR"
        )
    rows, skipped = [], {}
    for path in [root] if _is_run(root) else sorted(item for item in root.iterdir() if _is_run(item)):
        try:
            rows.append(run_row(path))
        except UserError as error:
            skipped[safe_text(path)] = error.what
    return rows, skipped


def _is_run(path: Path) -> bool:
    run = RunPaths(path)
    return run.config.is_file() or run.result.is_file()


def run_row(path: Path) -> Row:
    """The row of a finished run.

    Raises: UserError where the run is not finished, or its result is malformed.
    """
    run = RunPaths(path)
    if not run.result.is_file():
        raise UserError("not finished: it has no result.json", safe_text(path))
    result = read_object(run.result)
    if result.get("schema_version") != 1:
        raise malformed(run.result, f"schema version {result.get('schema_version')}, expected 1")
    params = _object(result.get("params"))
    total = _number(params, "total", run.result, at_least=1)
    settings = _object(_read_optional(run.config).get("values"))
    fingerprint = _object(_read_optional(run.env).get("dataset")).get("fingerprint")
    model, dataset = _text(result, "model", run.result), _text(result, "dataset", run.result)
    return Row(
        model=model,
        family=family_of(model) or "other",
        dataset=dataset,
        training="pretrained" if settings.get("init") else FROM_SCRATCH,
        kind="run",
        top1_percent=_number(result, "top1_percent", run.result, at_most=100),
        params_millions=total / 1e6,
        source="own run",
        fingerprint=fingerprint if isinstance(fingerprint, str) and dataset != SCORED_DATASET else "",
        top1_interval_percent=_interval(result.get("top1_interval_percent"), run.result),
        num_images=int(_number(result, "num_images", run.result, at_least=1)),
        true_params=int(total),
        params_without_embeddings=int(_number(params, "without_embeddings", run.result, at_least=1)),
        macs=_macs(settings, int(total)),
        epochs=None if result.get("epochs") is None else int(_number(result, "epochs", run.result)),
        run=safe_text(path),
        recipe=_optional_text(result, "recipe", run.result),
        seed=None if result.get("seed") is None else int(_number(result, "seed", run.result)),
    )


def _macs(settings: Mapping[str, Any], params: int) -> int | None:
    """Multiply-adds of the model that these settings and this number of parameters mean; None where they do not agree."""
    try:
        config = TrainConfig.from_flat(settings)
        model = model_config(config.model, num_classes=1, image_size=config.data.image_size)
    except UserError:
        return None
    further, rest = divmod(params - count(model).weights, model.embed_dim + 1)  # the head has embed_dim + 1 for each class
    return count(replace(model, num_classes=1 + further)).macs if further >= 0 and rest == 0 else None


def _read_optional(path: Path) -> dict[str, Any]:
    """What a run says beside its result; empty where that cannot be read."""
    try:
        return read_object(path)
    except UserError:
        return {}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(values: Mapping[str, Any], key: str, path: Path) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise malformed(path, f"{key} is no text")
    return safe_text(value, 80)


def _optional_text(values: Mapping[str, Any], key: str, path: Path) -> str | None:
    return None if values.get(key) is None else _text(values, key, path)


def _number(values: Mapping[str, Any], key: str, path: Path, *, at_least: float = 0, at_most: float = 1e15) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not at_least <= value <= at_most:
        raise malformed(path, f"{key} is no number in its range")
    return value


def _interval(value: Any, path: Path) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise malformed(path, "top1_interval_percent is no pair")
    low, high = (_number({"top1_interval_percent": item}, "top1_interval_percent", path, at_most=100) for item in value)
    return low, high


SORTS: Mapping[str, Callable[[Row], tuple[Any, ...]]] = MappingProxyType(
    {
        "score": lambda row: (-_or(row.score, -1), -row.top1_percent, _or(row.params_millions, math.inf)),
        "top1": lambda row: (-row.top1_percent, _or(row.params_millions, math.inf)),
        "params": lambda row: (_or(row.params_millions, math.inf), -row.top1_percent),
        "macs": lambda row: (_or(row.macs, math.inf), -row.top1_percent),
        "epochs": lambda row: (_or(row.epochs, math.inf), -row.top1_percent),
        "model": lambda row: (row.model.lower(), -row.top1_percent),
    }
)
"""What rows can be sorted by: the best, the smallest or the first name first. Off CIFAR-100, `score` is accuracy, then size."""


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def ranked(rows: Iterable[Row], sort: str = "score") -> list[list[Row]]:
    """The rows as tables, each sorted, the user's own first, and with its own Pareto fronts marked.

    First come data sets with own rows and of a data set the tables with own rows; of equals CIFAR-100 is the first.
    """
    tables: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        tables.setdefault(row.table, []).append(row)
    own = {key for key, table in tables.items() if any(row.is_own for row in table)}
    used = {key[0] for key in own}
    order = sorted(
        tables,
        key=lambda key: (key[0] not in used, key[0] != SCORED_DATASET, key[0], key not in own, key[2] == FROM_SCRATCH, key),
    )
    return [sorted(_with_fronts(tables[key]), key=lambda row: (not row.is_own, *SORTS[sort](row))) for key in order]


def _with_fronts(rows: Sequence[Row]) -> list[Row]:
    scored = _front([row.params_millions for row in rows], rows)
    true = _front([row.params_millions if row.true_params is None else row.true_params / 1e6 for row in rows], rows)
    return [replace(row, pareto=a, pareto_true=b) for row, a, b in zip(rows, scored, true, strict=True)]


def _front(sizes: Sequence[float | None], rows: Sequence[Row]) -> list[bool]:
    """Whether each row is on the front; one without a size is not."""
    known = [(size, row.top1_percent) for size, row in zip(sizes, rows, strict=True) if size is not None]
    front = iter(pareto_front(known))
    return [size is not None and next(front) for size in sizes]
