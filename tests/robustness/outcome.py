"""What a run, a packing or an export comes to, without what depends on the clock: equal if nothing was lost."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

_CLOCK = {"images_per_s", "input_percent", "train_seconds", "torch_images_per_s"}
_LEFT = re.compile(r"\.tmp|\.new$|\.part$")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def untimed(value: Any) -> Any:
    """JSON without the keys that depend on the clock."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in _CLOCK}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def run_outcome(run: Path) -> dict[str, Any]:
    """Of a run: weights, EMA, optimizer, metrics, predictions, result."""
    newest = max((run / "checkpoints").glob("step-*"))
    files = [run / "weights.safetensors", run / "predictions.safetensors", *newest.iterdir()]
    found: dict[str, Any] = {str(path.relative_to(run)): sha256(path) for path in files}
    found["metrics"] = [untimed(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["result"] = untimed(json.loads((run / "result.json").read_text()))
    found["settings"] = json.loads((run / "config.json").read_text())["values"]
    return found


def seeds_outcome(folder: Path) -> dict[str, Any]:
    """Of a directory of seeds."""
    summary = json.loads((folder / "summary.json").read_text())
    for run in summary["runs"]:
        del run["run"]
    return {"summary": summary} | {
        f"{run.name}/{key}": value for run in sorted(folder.glob("seed-*")) for key, value in run_outcome(run).items()
    }


def tree(folder: Path) -> dict[str, Any]:
    """Of every file below `folder` but locks its digest, in which the path of `folder` does not count."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    own = str(folder).encode()
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes().replace(own, b"HERE")).hexdigest() for path in files
    }


def file_outcome(path: Path) -> dict[str, Any]:
    """Of a file that one command writes."""
    return {path.name: sha256(path)}


def leftovers(folder: Path) -> list[str]:
    """Temporary files below `folder`."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if _LEFT.search(path.name))


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    keys = sorted(found.keys() | expected.keys())
    return [f"{key} differs" for key in keys if found.get(key) != expected.get(key)]
