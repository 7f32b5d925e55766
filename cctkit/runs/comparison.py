"""Published results and own runs as rows, ranked in one table per data set and kind of training."""

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
from cctkit.runs.paths import RunPaths, SeedPaths, is_seeds, shipped_names, shipped_run
from cctkit.runs.runfiles import NUMBER, Shape, fault, malformed, read_object
from cctkit.runs.seeds import summarize_seeds
from cctkit.text import safe_text

SCORED_DATASET = "cifar100"
_CLASSES = {"cifar100": 100, "cifar10": 10, "flowers102": 102, "imagenet1k": 1000}
_LARGEST = 10**15
_OPTIONAL = dict.fromkeys(("top1_interval_percent", "epochs", "recipe", "seed"))  # null unless the result has them
_RESULT: Mapping[str, Shape] = {
    "model": str,
    "dataset": str,
    "top1_percent": NUMBER,
    "num_images": int,
    "params": {"total": int, "without_embeddings": int},
    "top1_interval_percent": ([NUMBER, NUMBER], None),
    "epochs": (int, None),
    "recipe": (str, None),
    "seed": (int, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A result.

    params_millions: as published; for a run the true number.
    seeds: number of seeds that the accuracy is a mean over; None for a single run.
    top1_std_percent: standard deviation of the accuracy over these seeds.
    pareto: whether it is on the Pareto front of its table by `params_millions`.
    pareto_true_params: the same by the true number of parameters, or the published one if that is unknown.
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
    seeds: int | None = None
    top1_std_percent: float | None = None
    notes: tuple[str, ...] = ()
    pareto: bool = False
    pareto_true_params: bool = False

    @property
    def is_own(self) -> bool:
        """Whether it is a run, not a published result or weights that come with cctkit."""
        return self.kind == "run"

    @property
    def is_ours(self) -> bool:
        """Whether cctkit has trained it: a run, or weights that come with it."""
        return self.kind in ("run", "shipped")

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
        """What rows of one table have in common: the images, and the kind of training."""
        return self.dataset, self.fingerprint, self.training

    def _score(self, millions: float | None) -> float | None:
        """None under 70%, and on data sets other than CIFAR-100."""
        return score(self.top1_percent, millions) if millions is not None and self.dataset == SCORED_DATASET else None


def _millions(params: int | None) -> float | None:
    return None if params is None else params / 1e6


def published_row(result: PublishedResult) -> Row:
    """A published result, with the true counts of its model if the catalog has it."""
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


def shipped_rows() -> list[Row]:
    """The weights that come with cctkit: `run` is their name."""
    return [
        replace(run_row(shipped_run(name)), kind="shipped", source="weights that come with cctkit", run=name)
        for name in shipped_names()
    ]


def find_runs(root: Path) -> tuple[list[Row], dict[str, str]]:
    """The finished runs in `root`, or `root` itself if it is one, and why others were skipped. Several seeds are one row.

    Raises: UserError if there is no such directory.
    """
    if not root.is_dir():
        raise UserError(
            "there is no such directory of runs", safe_text(root), "train a model: cctkit train, or choose another --runs"
        )
    rows, skipped = [], {}
    for path in [root] if _is_run(root) else sorted(item for item in root.iterdir() if _is_run(item)):
        try:
            rows.append(seeds_row(path) if is_seeds(path) else run_row(path))
        except UserError as error:
            skipped[safe_text(path)] = error.what
    return rows, skipped


def _is_run(path: Path) -> bool:
    run = RunPaths(path)
    return run.config.is_file() or run.result.is_file() or is_seeds(path)


def seeds_row(path: Path) -> Row:
    """The row of a directory of several seeds: the mean accuracy, and the mean of the runs' intervals over images.

    Raises: UserError if a run is not finished, or a result is malformed.
    """
    summary = summarize_seeds(path)
    first = run_row(SeedPaths(path).run(summary["seeds"][0]))
    low, high = summary["top1_interval_percent"]
    return replace(
        first,
        top1_percent=summary["top1_percent"],
        top1_interval_percent=(low, high),
        top1_std_percent=summary["top1_std_percent"],
        seeds=len(summary["seeds"]),
        epochs=summary["epochs"],
        run=safe_text(path),
        seed=None,
    )


def run_row(path: Path) -> Row:
    """The row of a finished run.

    Raises: UserError if the run is not finished, or its result is malformed.
    """
    run = RunPaths(path)
    if not run.result.is_file():
        raise UserError("not finished: it has no result.json", safe_text(path))
    result: dict[str, Any] = {**_OPTIONAL, **read_object(run.result)}
    if result.get("schema_version") != 1:
        raise malformed(run.result, f"schema version {result.get('schema_version')}, expected 1")
    if problem := fault(result, _RESULT) or _range_fault(result):
        raise malformed(run.result, problem)
    settings = _read_optional(run.config, {"values": dict}).get("values", {})
    images = _read_optional(run.env, {"dataset": {"fingerprint": str}}).get("dataset", {})
    model, dataset = safe_text(result["model"], 80), safe_text(result["dataset"], 80)
    total, interval = result["params"]["total"], result["top1_interval_percent"]
    return Row(
        model=model,
        family=family_of(model) or "other",
        dataset=dataset,
        training="pretrained" if settings.get("init") else FROM_SCRATCH,
        kind="run",
        top1_percent=result["top1_percent"],
        params_millions=total / 1e6,
        source="own run",
        fingerprint="" if dataset == SCORED_DATASET else images.get("fingerprint", ""),
        top1_interval_percent=None if interval is None else (interval[0], interval[1]),
        num_images=result["num_images"],
        true_params=total,
        params_without_embeddings=result["params"]["without_embeddings"],
        macs=_macs(settings, total),
        epochs=result["epochs"],
        run=safe_text(path),
        recipe=None if result["recipe"] is None else safe_text(result["recipe"], 80),
        seed=result["seed"],
    )


def _range_fault(result: Mapping[str, Any]) -> str | None:
    """What is out of range in a result of the right shape."""
    percents = (result["top1_percent"], *(result["top1_interval_percent"] or ()))
    if not all(0 <= percent <= 100 for percent in percents):
        return "a top-1 accuracy is not between 0 and 100%"
    params = result["params"]
    numbers = (result["num_images"], params["total"], params["without_embeddings"])
    if not all(1 <= number <= _LARGEST for number in numbers):
        return f"a number of images or parameters is not between 1 and {_LARGEST:.0e}"
    return None if result["model"] and result["dataset"] else "the model or dataset has no name"


def _macs(settings: Mapping[str, Any], params: int) -> int | None:
    """Multiply-adds of the model with these settings and this number of parameters; None if they do not agree."""
    try:
        config = TrainConfig.from_flat(settings)
        model = model_config(config.model, num_classes=1, image_size=config.data.image_size)
    except UserError:
        return None
    further, rest = divmod(params - count(model).weights, model.embed_dim + 1)  # the head has embed_dim + 1 per class
    return count(replace(model, num_classes=1 + further)).macs if further >= 0 and rest == 0 else None


def _read_optional(path: Path, shape: Mapping[str, Shape]) -> dict[str, Any]:
    """A JSON object, or {} if the file is missing or malformed."""
    try:
        return read_object(path, shape)
    except UserError:
        return {}


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
"""Sort keys of rows. On data sets other than CIFAR-100, `score` sorts by accuracy, then size."""


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def ranked(rows: Iterable[Row], sort: str = "score") -> list[list[Row]]:
    """The rows as tables, each sorted with own runs first, and with its Pareto fronts marked.

    Data sets with own runs come first, then CIFAR-100; within a data set, tables with own runs come first.
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
    return [replace(row, pareto=a, pareto_true_params=b) for row, a, b in zip(rows, scored, true, strict=True)]


def _front(sizes: Sequence[float | None], rows: Sequence[Row]) -> list[bool]:
    """Whether each row is on the front; a row without a size is not."""
    known = [(size, row.top1_percent) for size, row in zip(sizes, rows, strict=True) if size is not None]
    front = iter(pareto_front(known))
    return [size is not None and next(front) for size in sizes]
