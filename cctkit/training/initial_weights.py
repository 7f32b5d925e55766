"""Weights to begin with: a model filled from a file of any known layout, or from a name; and foreign files made ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cctkit.catalog.classes import CLASS_NAMES
from cctkit.catalog.counts import grid_size
from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.models import named_config
from cctkit.catalog.pretrained import IMAGENET_MEAN, IMAGENET_STD, PRETRAINED, Channels, check_pretrained, is_pretrained
from cctkit.config.settings import ModelConfig, Positional
from cctkit.data.dataset import cache_folder
from cctkit.data.sources.download import download
from cctkit.digests import not_verified
from cctkit.errors import UserError
from cctkit.models.build import build_model
from cctkit.models.convert import HEAD, POSITIONS, Conversion, Resized, convert, is_sine, layout_of
from cctkit.models.foreign import read_foreign
from cctkit.models.timm_config import TimmConfig, read_timm_config
from cctkit.models.weights import WeightsInfo, check_tensors, read_weights
from cctkit.runs.rundir import weights_file
from cctkit.runs.runfiles import in_utf8
from cctkit.text import counted, nearest, safe_text

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InitReport:
    """What `initialise` did; kept in the run. taken: tensors; left: names of the file; missing: names of the model.

    mean, std: of the pixels that the weights were trained on, by channel; None where the file does not say, and neither does
    its layout; is_assumed: they are only what is usual. assumed: of how the model computes, what nothing tells.
    is_verified: the file is foreign, or one of ours with a digest.
    """

    source: str
    layout: str
    taken: int
    resized: tuple[Resized, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]
    mean: Channels | None
    std: Channels | None
    is_assumed: bool
    assumed: tuple[str, ...] = ()
    is_verified: bool = True

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person: one line, and one for each thing that is not plainly taken."""
        lines = [f"weights from {safe_text(self.source)} ({self.layout}): {self.taken} tensors taken"]
        lines += [f"  {_interpolated(each)}" for each in self.resized]
        if self.is_assumed:
            lines.append("  images are normalised as ImageNet's usually are: nothing says how these weights' were")
        if self.assumed:
            lines.append(f"  {_assumption(self.assumed)}")
        if not self.is_verified:
            lines.append(f"  {not_verified(self.source)}")
        if self.left:
            lines.append(f"  left in the file: {', '.join(map(safe_text, self.left))}")
        if self.missing:
            lines.append(f"  new, as the classes differ: {', '.join(self.missing)}")
        return lines


def _interpolated(each: Resized) -> str:
    before, after = ("x".join(map(str, grid)) for grid in (each.before, each.after))
    return f"{each.name} interpolated from {before} to {after} tokens"


def _assumption(facts: Sequence[str]) -> str:
    return f"assumed, as nothing tells: {', '.join(facts)}"


def initialise(
    model: nn.Module,
    source: str,
    *,
    config: ModelConfig,
    class_names: Sequence[str] | None = None,
    may_download: bool = True,
    progress: Progress = lambda *_: None,
) -> InitReport:
    """Fill `model`, which is that of `config`, from the file, the run directory or the name `source`.

    The head is kept where the classes are the same, by name where the file knows them (then in the model's order) and
    `class_names` is given, otherwise by number; else it stays as it was initialised.

    Raises: UserError where there is no such source, or its model is another.
    """
    path = Path(source)
    if is_pretrained(source):
        check_pretrained(source, config)
        path = pretrained_file(source, may_download=may_download, progress=progress)
    elif not path.exists():
        hint = nearest(source, PRETRAINED)
        raise UserError(
            f"there is no file '{safe_text(source)}', and no pretrained weights of that name",
            "--init",
            f"a file or a run directory, or one of: {', '.join(hint or PRETRAINED)}",
        )
    path = weights_file(path)
    mean: Channels | None
    std: Channels | None
    is_assumed, is_verified = False, True
    assumed: tuple[str, ...] = ()
    if is_ours(path):
        conversion, mean, std, is_verified = _from_ours(path, model, config, class_names)
    else:
        conversion = convert(read_foreign(path), config=config, expected=model.state_dict(), where=safe_text(path))
        beside = read_timm_config(path, config) if conversion.layout == "timm" else None
        mean, std = (None, None) if conversion.layout == "compact" else (IMAGENET_MEAN, IMAGENET_STD)
        if beside is not None:
            mean, std = beside.pixels or (IMAGENET_MEAN, IMAGENET_STD)
            is_assumed, assumed = beside.pixels is None, beside.assumed
    model.load_state_dict({**model.state_dict(), **conversion.tensors})
    return InitReport(
        source=source,
        layout=conversion.layout,
        taken=len(conversion.taken),
        resized=conversion.resized,
        left=conversion.left,
        missing=conversion.missing,
        mean=mean,
        std=std,
        is_assumed=is_assumed,
        assumed=assumed,
        is_verified=is_verified,
    )


def _from_ours(
    path: Path, model: nn.Module, config: ModelConfig, class_names: Sequence[str] | None
) -> tuple[Conversion, Channels, Channels, bool]:
    """The conversion of one of our files, whose header knows image size, classes and normalisation; whether it is verified."""
    tensors, info = read_weights(path)
    check_tensors(tensors, info, path)
    where = safe_text(path)
    if info.model.num_heads != config.num_heads:  # no tensor's shape tells
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
    return conversion, info.mean, info.std, info.digest is not None


def is_ours(path: Path) -> bool:
    """Whether the file is safetensors with a header of ours."""
    try:
        with in_utf8(path) as readable, safe_open(readable, framework="numpy") as file:
            return "cctkit" in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def pretrained_file(name: str, *, may_download: bool = True, progress: Progress) -> Path:
    """The file of the pretrained weights `name`, from the user's cache or downloaded into it.

    Raises: UserError where it cannot be downloaded, or may not be.
    """
    row = PRETRAINED[name]
    path = cache_folder() / "weights" / row.url.rpartition("/")[2]
    if not path.exists():
        if not may_download:
            raise UserError(
                f"the weights of {name} are not there, and --no-download forbids to fetch them",
                "--init",
                f"put {row.url} at {safe_text(path)}, or give a file: --init FILE",
            )
        download(row.url, path, sha256=row.sha256, max_bytes=row.max_bytes, progress=progress)
    return path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Imported:
    """A foreign file as one of ours: what `save_weights` takes, and what there is to say about it."""

    tensors: Mapping[str, Tensor]
    info: WeightsInfo
    notes: tuple[str, ...]


def import_foreign(
    path: Path,
    *,
    model: str,
    classes: Sequence[str] | str | None = None,
    image_size: Any = None,
    mean: Channels | None = None,
    std: Channels | None = None,
) -> Imported:
    """The weights of another program as those of the model `model`, with all that a weights file of ours says.

    classes: names in the order of the head's outputs, or `cifar10` or `cifar100`; where that, the normalisation or the
    image size is not given, the model's name says it (`cct_7_3x1_32_c100`).

    Raises: UserError where the file is not that model's, or something is known neither way.
    """
    where = safe_text(path)
    if is_ours(path):
        raise UserError("this is a weights file of cctkit already", where, f"use it as it is: cctkit eval {where}")
    state = read_foreign(path)
    layout = layout_of(state, where=where)
    head = state.get(f"{HEAD[layout]}.weight")
    if head is None:
        raise UserError("the file has no head: it classifies nothing", where, "fine-tune it: cctkit train --init FILE")
    named = named_config(model, image_size=image_size)
    config = named_config(
        model,
        num_classes=head.shape[0],
        image_size=image_size,
        positional_embedding=_position_kind(state.get(POSITIONS[layout])),
    )
    known = _known_dataset(model, classes)
    names = _class_names(known, classes, config, path)
    conversion = convert(state, config=config, expected=build_model(config, seed=0).state_dict(), where=where)
    beside = read_timm_config(path, config) if layout == "timm" else TimmConfig(pixels=None, assumed=())
    mean, std = _normalisation(known, config, mean, std, beside)
    dataset = {"name": known or path.name, "named": known is not None, "split_seed": 0, "val_fraction": 0.0}
    dataset |= {"fingerprint": DATASETS[known].fingerprint if known else None}
    info = WeightsInfo(
        model=config, class_names=names, mean=mean, std=std, resize_mode="crop", dataset=dataset, recipe=None, metrics={}
    )
    return Imported(tensors=conversion.tensors, info=info, notes=tuple(_notes(named, config, conversion, beside)))


def _position_kind(positions: Tensor | None) -> Positional:
    """What the file's positions are, whatever its name says."""
    if positions is None:
        return "none"
    return "sine" if positions.ndim == 3 and is_sine(positions) else "learnable"


def _known_dataset(model: str, classes: Sequence[str] | str | None) -> str | None:
    """The named data set of the weights: as said, else by the ending of a published name."""
    if classes is not None:
        return classes if isinstance(classes, str) else None
    return {"c10": "cifar10", "c100": "cifar100"}.get(model.rpartition("_")[2])


def _class_names(known: str | None, classes: Sequence[str] | str | None, config: ModelConfig, path: Path) -> tuple[str, ...]:
    if known is not None and known not in CLASS_NAMES:
        raise UserError(f"unknown data set '{safe_text(known)}'", "--classes", f"known: {', '.join(CLASS_NAMES)}")
    names = CLASS_NAMES[known] if known else tuple(classes or ())
    if len(names) != config.num_classes or len(set(names)) != len(names):
        got = f"{len(set(names))} different names are given" if names else "nothing names them"
        raise UserError(
            f"the head has {config.num_classes} classes, and {got}",
            safe_text(path),
            "--classes cifar10, cifar100, or a file with a name a line, in the head's order",
        )
    return names


def _normalisation(
    known: str | None, config: ModelConfig, mean: Channels | None, std: Channels | None, beside: TimmConfig
) -> tuple[Channels, Channels]:
    """As given; else what lies beside the file; else the data set's; else ImageNet's for the models of its sizes."""
    if mean is not None and std is not None:
        return mean, std
    if beside.pixels is not None:
        return beside.pixels
    row = DATASETS[known] if known else None
    if row is not None and row.mean is not None and row.std is not None:
        return row.mean, row.std
    if min(config.image_size) >= 224:
        return IMAGENET_MEAN, IMAGENET_STD
    raise UserError("how the images were normalised is not known", "import", "give --mean R,G,B and --std R,G,B")


def _notes(named: ModelConfig, config: ModelConfig, conversion: Conversion, beside: TimmConfig) -> list[str]:
    """What a user would not expect."""
    notes = []
    if named.positional_embedding != config.positional_embedding:
        notes.append(
            f"the positions are {config.positional_embedding}, not {named.positional_embedding} as the name says"
            + (": the published `_sine` models were built with learnable ones" if named.positional_embedding == "sine" else "")
        )
    notes += map(_interpolated, conversion.resized)
    if beside.assumed:
        notes.append(_assumption(beside.assumed))
    if conversion.left:
        notes.append(f"left out: {', '.join(map(safe_text, conversion.left))}")
    return notes
