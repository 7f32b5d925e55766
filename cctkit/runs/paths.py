"""The files of a run directory, and how a run is found."""

import re
from datetime import datetime
from pathlib import Path

from cctkit.errors import UserError
from cctkit.text import safe_text

DEFAULT_ROOT = Path("runs")
SHIPPED = Path(__file__).parents[1] / "weights"
"""The weights that come with cctkit: for each name a run directory without checkpoints, and its model card."""
HUB_WEIGHTS = "model.safetensors"
"""The weights in a folder that `cctkit card` has written; a folder with this file is one."""


class RunPaths:
    """The paths in a run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.env = path / "env.json"
        self.seen = path / "seen.safetensors"  # digests of the images trained on
        self.metrics = path / "metrics.jsonl"
        self.weights = path / "weights.safetensors"
        self.last = path / "last.safetensors"  # weights of the newest epoch, if `weights` are of a better one
        self.predictions = path / "predictions.safetensors"
        self.result = path / "result.json"
        self.curves = path / "curves.png"
        self.confusion = path / "confusion.png"  # this and the next two are of `cctkit inspect`
        self.mistakes = path / "mistakes.png"
        self.batch = path / "batch.png"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"  # with `--track tensorboard`


class SeedPaths:
    """The paths in a directory of the same run with several seeds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seeds = path / "seeds.json"
        self.summary = path / "summary.json"

    def run(self, seed: int) -> Path:
        """The run directory of a seed."""
        return self.path / f"seed-{seed}"


def is_seeds(path: Path) -> bool:
    """Whether `path` is a directory that `cctkit train --seeds` has made."""
    return SeedPaths(path).seeds.is_file()


def check_is_one_run(path: Path) -> None:
    """Check that `path` is not a directory of several seeds, where one run is needed.

    Raises: UserError.
    """
    if is_seeds(path):
        raise UserError(
            "this is a directory of several seeds, expected one run",
            safe_text(path),
            f"name one of its runs: {', '.join(safe_text(each) for each in sorted(path.glob('seed-*'))[:3])}",
        )


def check_run(path: Path) -> None:
    """Check that `path` is a run directory.

    Raises: UserError.
    """
    if (path / HUB_WEIGHTS).exists():
        raise UserError("a folder of cctkit card is no run", safe_text(path), "name the run that it was made from")
    check_is_one_run(path)
    if not RunPaths(path).config.is_file():
        raise UserError("not a run directory: config.json is missing", safe_text(path))


def default_name(dataset: str, model: str, now: datetime, root: Path = DEFAULT_ROOT) -> Path:
    """`runs/<dataset>-<model>-<time>`, in characters that all file systems permit; with a number if that exists."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{dataset}-{model}")[:80] + now.strftime("-%Y%m%d-%H%M%S")
    names = (root / (stem + (f"-{i}" if i else "")) for i in range(1000))
    return next(path for path in names if not path.exists())


def shipped_names() -> list[str]:
    """The names of the weights that come with cctkit, such as `cct_2_3x2_c100`."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/weights.safetensors"))


def shipped_run(name: str) -> Path:
    """The run directory of weights that come with cctkit."""
    return SHIPPED / name


def named_run(source: Path) -> Path:
    """The run directory of a name that comes with cctkit, or `source` itself. A path that exists comes first."""
    return shipped_run(str(source)) if str(source) in shipped_names() and not source.exists() else source


def weights_file(source: Path) -> Path:
    """The weights file of a run directory or a folder of `cctkit card`, of a name that comes with cctkit, or `source` itself.

    Raises: UserError if a directory has no weights.
    """
    source = named_run(source)
    if not source.is_dir():
        return source
    for weights in (source / HUB_WEIGHTS, RunPaths(source).weights):
        if weights.exists():
            return weights
    check_run(source)
    raise UserError(
        "this run has no weights yet: its first epoch is not finished",
        safe_text(source),
        f"resume it: cctkit train --resume {safe_text(source)}",
    )


def newest_run(root: Path) -> Path:
    """The run under `root` that was started last, of those with weights.

    Raises: UserError if there is none.
    """
    weights = [*root.glob("*/weights.safetensors"), *root.glob("*/seed-*/weights.safetensors")]
    runs = [path.parent for path in weights if RunPaths(path.parent).config.exists()]
    if not runs:
        raise UserError("found no run with weights", safe_text(root), "train one: cctkit train, or name a run or weights file")
    return max(runs, key=lambda path: RunPaths(path).config.stat().st_mtime)
