"""Reads the JSON files of a run; errors name the file and what is wrong in it."""

import contextlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from cctkit.config.settings import TrainConfig
from cctkit.config.toml import read_toml
from cctkit.errors import UserError
from cctkit.files import read_limited
from cctkit.text import safe_text

_LARGEST_METRICS_BYTES = 64 * 2**20
_FIGURES = ("_loss", "_loss_smoothed", "_top1_percent")
_LARGEST_FIGURE = 1e30  # that can be plotted

Shape: TypeAlias = "type | str | tuple[Shape, ...] | list[Shape] | Mapping[str, Shape] | None"
"""A type or a value; a tuple of alternatives; a list of the shapes of a list's items; a mapping for an object's keys."""

NUMBER: Shape = (int, float)


def fault(value: Any, shape: Shape, name: str = "it") -> str | None:
    """What is wrong with `value`, called `name`; None if it has the shape. Objects may have further keys."""
    if isinstance(shape, tuple):
        faults = [fault(value, each, name) for each in shape]
        return None if None in faults else faults[-1]
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return f"{name} is not a JSON object"
        missing = sorted(shape.keys() - value.keys())
        if missing:
            return f"{name} lacks {', '.join(missing)}"
        return next((found for key, part in shape.items() if (found := fault(value[key], part, key))), None)
    if isinstance(shape, list):
        fits = isinstance(value, list) and len(value) == len(shape) and not any(map(fault, value, shape))
    else:
        fits = type(value) is shape if isinstance(shape, type) else value == shape
    return None if fits else f"{name} is {safe_text(repr(value), 40)}"


def read_object(path: Path, shape: Mapping[str, Shape] | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Raises: UserError if it cannot be read, is not a JSON object, or does not have the shape.
    """
    try:
        value = json.loads(read_limited(path))
    except OSError as error:
        raise UserError(f"cannot read {safe_text(path.name)}: {error.strerror}", safe_text(path)) from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise malformed(path, "not valid JSON") from error
    if problem := fault(value, shape or {}):
        raise malformed(path, problem)
    return dict(value)


def malformed(path: Path, problem: str) -> UserError:
    """The error for a file with invalid content."""
    return UserError(f"{safe_text(path.name)} is malformed: {safe_text(problem)}", safe_text(path))


@contextlib.contextmanager
def in_utf8(path: Path) -> Iterator[str]:
    """A path that safetensors accepts: for one that is not UTF-8, the path of a file descriptor.

    Raises: OSError if the file cannot be opened, which safetensors would call missing whatever the reason.
    """
    name = os.fspath(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}" if any("\udc80" <= character <= "\udcff" for character in name) else name
    finally:
        os.close(descriptor)


def read_settings(path: Path) -> tuple[TrainConfig, str | None]:
    """The settings and the name of the recipe in a run's `config.json`.

    Raises: UserError.
    """
    stored = read_object(path, {"values": dict, "recipe": (str, None)})
    values = {"test_every_epoch": True} | stored["values"]  # as in runs from before the setting existed
    return TrainConfig.from_flat(values, where=str(path)), stored["recipe"]


def read_config(path: Path | None, *, recipe: str | None) -> tuple[dict[str, Any], str | None]:
    """The settings of a config file, flat, and the recipe: `recipe` if it is given, otherwise the file's.

    path: a TOML file, a run's `config.json`, or the run directory; None: no settings.

    Raises: UserError if the file cannot be read or is malformed; or if `recipe` would have no effect, as the `config.json` of a
    run has a value for every setting.
    """
    if path is None:
        return {}, recipe
    if path.is_dir() or path.suffix == ".json":
        file = path / "config.json" if path.is_dir() else path
        stored = read_object(file, {"values": dict, "recipe": (str, None)})
        if recipe not in (None, stored["recipe"]):
            raise UserError(
                f"--recipe {safe_text(recipe)} has no effect: a run's config.json has every setting",
                safe_text(file),
                "leave out --recipe, and give settings to change as flags",
            )
        return stored["values"], stored["recipe"]
    values = read_toml(path)
    named = values.pop("recipe", None)
    return values, recipe or (None if named is None else str(named))


def command_line(env: Mapping[str, Any]) -> str:
    """The command that made the run with this `env.json`; of several processes, as on one machine."""
    ranks = env.get("ranks", 1)
    program = ["cctkit"] if ranks == 1 else ["torchrun", "--nproc-per-node", str(ranks), "-m", "cctkit"]
    return shlex.join([*program, *map(str, env.get("command") or [])])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, one per epoch; none if there is no file. An incomplete last line is dropped.

    Raises: UserError if the file cannot be read, lines are missing, or a line is not an epoch of a run.
    """
    try:
        lines = read_limited(path, _LARGEST_METRICS_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read the metrics: {error.strerror}", safe_text(path)) from error
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(f"line {number} is not valid JSON", safe_text(path)) from error
        if problem := _epoch_fault(record, records[-1]["epoch"] if records else 0):
            raise UserError(f"line {number} is not an epoch of a run: {problem}", safe_text(path))
        records.append(record)
    return records


def _epoch_fault(record: Any, epoch_before: int) -> str | None:
    if problem := fault(record, {}):
        return problem
    epoch = record.get("epoch")
    if type(epoch) is not int or epoch != epoch_before + 1:
        return f"its epoch is {safe_text(repr(epoch), 40)}, expected {epoch_before + 1}"
    for key, value in record.items():
        if key.endswith(_FIGURES) and value is not None and (fault(value, NUMBER) or not abs(value) < _LARGEST_FIGURE):
            return f"{safe_text(key, 40)} is {safe_text(repr(value), 40)}, expected a number or null"
    return None
