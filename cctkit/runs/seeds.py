"""A directory of the same run with several seeds: `seeds.json`, beside it a run `seed-N` each, at the end `summary.json`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cctkit.errors import UserError
from cctkit.runs.paths import RunPaths, SeedPaths
from cctkit.runs.runfiles import NUMBER, Shape, malformed, read_object
from cctkit.text import safe_text

_REQUEST: Mapping[str, Shape] = {
    "flags": dict,
    "file_values": dict,
    "file_name": str,
    "recipe": (str, None),
    "time": (str, None),
}
_SEEDS: Mapping[str, Shape] = {"schema_version": int, "seeds": list, "request": dict}
_FINISHED: Mapping[str, Shape] = {
    "model": str,
    "dataset": str,
    "num_images": int,
    "top1_percent": NUMBER,
    "top1_interval_percent": [NUMBER, NUMBER],
    "loss": (*NUMBER, None),  # type: ignore[misc]
    "epochs": int,
}


def read_seeds(path: Path) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The seeds of a directory of seeds, and what the user asked of its first run.

    Raises: UserError.
    """
    file = SeedPaths(path).seeds
    stored = read_object(file, _SEEDS)
    if stored["schema_version"] != 1:
        raise malformed(file, f"schema version {stored['schema_version']}, expected 1")
    seeds = stored["seeds"]
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise malformed(file, "the seeds are not different numbers from 0 on")
    if missing := sorted(_REQUEST.keys() - stored["request"].keys()):
        raise malformed(file, f"request lacks {', '.join(missing)}")
    return tuple(seeds), {key: stored["request"][key] for key in _REQUEST}


def finished_seeds(path: Path) -> tuple[list[int], list[int]]:
    """The seeds whose runs are finished, and those whose are not.

    Raises: UserError.
    """
    seeds, _ = read_seeds(path)
    done = {seed for seed in seeds if RunPaths(SeedPaths(path).run(seed)).result.is_file()}
    return [seed for seed in seeds if seed in done], [seed for seed in seeds if seed not in done]


def summarize_seeds(path: Path) -> dict[str, Any]:
    """The contents of `summary.json`: means over the seeds, the standard deviation over seeds, the interval over images.

    The interval is the mean of the runs' 95% intervals: what the accuracy of one run would be on other test images. The
    standard deviation (n - 1) is how much the accuracy differs from seed to seed on the same images; null for one seed.

    Raises: UserError if a run is not finished, or its result is malformed.
    """
    finished, missing = finished_seeds(path)
    if missing:
        number = f"{len(finished)} of {len(finished) + len(missing)} seeds are finished"
        raise UserError(number, safe_text(path), f"resume it: cctkit train --resume {safe_text(path)}")
    results = [read_object(RunPaths(SeedPaths(path).run(seed)).result, _FINISHED) for seed in finished]
    first = results[0]
    losses = [result["loss"] for result in results]
    return {
        "schema_version": 1,
        "model": first["model"],
        "dataset": first["dataset"],
        "num_images": first["num_images"],
        "seeds": finished,
        "epochs": max(result["epochs"] for result in results),
        "top1_percent": _mean(results, "top1_percent"),
        "top1_std_percent": spread([result["top1_percent"] for result in results]),
        "top1_interval_percent": [
            statistics.fmean(result["top1_interval_percent"][side] for result in results) for side in (0, 1)
        ],
        "loss": None if None in losses else _mean(results, "loss"),
        "runs": [
            {
                "seed": seed,
                "run": str(SeedPaths(path).run(seed)),
                **{key: result[key] for key in ("top1_percent", "top1_interval_percent", "loss", "epochs")},
            }
            for seed, result in zip(finished, results, strict=True)
        ],
    }


def _mean(results: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.fmean(result[key] for result in results)


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation (n - 1); None of one value."""
    return statistics.stdev(values) if len(values) > 1 else None
