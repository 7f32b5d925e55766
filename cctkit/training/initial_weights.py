"""`--init`: fill a model from a weights file of any known layout, a run directory, or pretrained weights by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from cctkit.catalog.counts import grid_size
from cctkit.catalog.pretrained import IMAGENET_MEAN, IMAGENET_STD, PRETRAINED, Channels, check_pretrained, is_pretrained
from cctkit.config.model import ModelConfig
from cctkit.data.sources.download import download
from cctkit.data.sources.places import cache_folder
from cctkit.digests import not_verified
from cctkit.errors import UserError
from cctkit.models.convert import HEAD, Conversion, Resized, convert, layout_of
from cctkit.models.foreign import read_foreign
from cctkit.models.timm_config import read_timm_config
from cctkit.models.weights import check_tensors, read_weights
from cctkit.runs.paths import shipped_names, weights_file
from cctkit.runs.runfiles import in_utf8
from cctkit.text import counted, nearest, safe_text

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitReport:
    """What `initialise` loaded; kept in the run's `env.json`.

    taken: number of tensors that were loaded.
    left: names in the file that were not used.
    missing: names in the model that keep their initial values.
    mean, std: per channel, of the pixels that the weights were trained on; None if unknown.
    is_assumed: whether `mean` and `std` are only the usual ones.
    assumed: what the file does not say about how the model computes.
    is_verified: False for a file of ours without a digest.
    """

    source: str
    layout: str
    taken: int
    resized: tuple[Resized, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]
    mean: Channels | None = None
    std: Channels | None = None
    is_assumed: bool = False
    assumed: tuple[str, ...] = ()
    is_verified: bool = True

    def lines(self) -> list[str]:
        """One line, and one more for each thing that the user should know."""
        lines = [f"weights from {safe_text(self.source)} ({self.layout}): {self.taken} tensors loaded"]
        lines += [f"  {interpolation(each)}" for each in self.resized]
        if self.is_assumed:
            lines.append("  images are normalised with ImageNet's mean and std, since the file does not say which were used")
        if self.assumed:
            lines.append(f"  {assumption(self.assumed)}")
        if not self.is_verified:
            lines.append(f"  {not_verified(self.source)}")
        if self.left:
            lines.append(f"  not used from the file: {', '.join(map(safe_text, self.left))}")
        if self.missing:
            lines.append(f"  newly initialised, since the classes differ: {', '.join(self.missing)}")
        return lines


def interpolation(each: Resized) -> str:
    """The note on an interpolated positional embedding."""
    before, after = ("x".join(map(str, grid)) for grid in (each.before, each.after))
    return f"{each.name} interpolated from {before} to {after} tokens"


def assumption(facts: Sequence[str]) -> str:
    """The note on what a file does not say."""
    return f"assumed, as the file does not say: {', '.join(facts)}"


def initialise(
    model: nn.Module,
    source: str,
    *,
    config: ModelConfig,
    class_names: Sequence[str] | None = None,
    may_download: bool = True,
    progress: Progress = lambda *_: None,
) -> InitReport:
    """Load weights into `model`, built from `config`.

    The head is loaded if the classes are the same, reordered by name if the file has names; otherwise it keeps its initial
    values.

    source: a weights file, a run directory, or the name of weights that come with cctkit or are downloaded.
    class_names: None: load the head if it has as many classes.

    Raises: UserError if there is no such source, or its model is a different one.
    """
    path = Path(source)
    if is_pretrained(source):
        check_pretrained(source, config)
        path = pretrained_file(source, may_download=may_download, progress=progress)
    path = weights_file(path)
    if not path.exists():
        names = [*shipped_names(), *PRETRAINED]
        raise UserError(
            f"there is no file '{safe_text(source)}', and no pretrained weights of that name",
            "--init",
            f"a file or a run directory, or one of: {', '.join(nearest(source, names) or names)}",
        )
    if is_ours(path):
        conversion, facts = _from_ours(path, model, config, class_names)
    else:
        conversion, facts = _from_foreign(path, model, config)
    model.load_state_dict({**model.state_dict(), **conversion.tensors})
    return InitReport(
        source=source,
        layout=conversion.layout,
        taken=len(conversion.taken),
        resized=conversion.resized,
        left=conversion.left,
        missing=conversion.missing,
        **facts,
    )


def _from_ours(
    path: Path, model: nn.Module, config: ModelConfig, class_names: Sequence[str] | None
) -> tuple[Conversion, dict[str, Any]]:
    """The tensors of one of our files for `model`, and what its header says for the `InitReport`."""
    tensors, info = read_weights(path)
    check_tensors(tensors, info, path)
    where = safe_text(path)
    if info.model.family != config.family:
        raise UserError(
            f"the weights are those of {safe_text(info.model.name)}, which is of another family than {safe_text(config.name)}",
            where,
            "another --model",
        )
    if info.model.num_heads != config.num_heads:  # does not show in any tensor's shape
        raise UserError(
            f"the weights' model has {counted(info.model.num_heads, 'attention head')}, the model {config.num_heads}",
            where,
            f"--num-heads {info.model.num_heads}",
        )
    same = class_names is None or set(class_names) == set(info.class_names)
    if class_names is not None and same:
        order = [info.class_names.index(name) for name in class_names]
        head = HEAD[layout_of(tensors, where=where)]
        tensors |= {f"{head}.{part}": tensors[f"{head}.{part}"][order] for part in ("weight", "bias")}
    conversion = convert(
        tensors, config=config, expected=model.state_dict(), where=where, grid=grid_size(info.model), keep_head=same
    )
    return conversion, {"mean": info.mean, "std": info.std, "is_verified": info.digest is not None}


def _from_foreign(path: Path, model: nn.Module, config: ModelConfig) -> tuple[Conversion, dict[str, Any]]:
    """The tensors of another program's file for `model`, and what is known of it for the `InitReport`."""
    conversion = convert(read_foreign(path), config=config, expected=model.state_dict(), where=safe_text(path))
    if conversion.layout == "compact":
        return conversion, {}
    if conversion.layout != "timm":
        return conversion, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    beside = read_timm_config(path, config)
    mean, std = beside.pixels or (IMAGENET_MEAN, IMAGENET_STD)
    return conversion, {"mean": mean, "std": std, "is_assumed": beside.pixels is None, "assumed": beside.assumed}


def is_ours(path: Path) -> bool:
    """Whether the file is a weights file of cctkit: safetensors with our header."""
    try:
        with in_utf8(path) as readable, safe_open(readable, framework="numpy") as file:
            return "cctkit" in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def pretrained_file(name: str, *, may_download: bool = True, progress: Progress) -> Path:
    """The file of the pretrained weights `name` in the user's cache, downloaded if it is not there.

    Raises: UserError if the download fails or is not allowed.
    """
    row = PRETRAINED[name]
    path = cache_folder() / "weights" / row.url.rpartition("/")[2]
    if not path.exists():
        if not may_download:
            raise UserError(
                f"the weights of {name} are not in the cache, and --no-download forbids downloading them",
                "--init",
                f"put {row.url} at {safe_text(path)}, or give a file: --init FILE",
            )
        download(row.url, path, sha256=row.sha256, max_bytes=row.max_bytes, progress=progress)
    return path
