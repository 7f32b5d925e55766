"""How long the small commands take, beside an empty Python and `import torch`: `python benchmarks/startup.py`.

Each is a process of its own, from its start to its end; seconds, the shortest of several, in turn. `eval` is that of a run
of the digits, made here first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CCTKIT = ("-m", "cctkit")
TRAIN = (*CCTKIT, "train", "--dataset", "digits", "--image-size", "16", "--epochs", "1", "--quiet")


def commands(folder: Path) -> dict[str, tuple[str, ...]]:
    """Arguments of the interpreter, by what is shown for them."""
    return {
        "python -c pass": ("-c", "pass"),
        "python -c 'import torch'": ("-c", "import torch"),
        "cctkit --help": (*CCTKIT, "--help"),
        "cctkit compare": (*CCTKIT, "compare"),
        "cctkit plot-lr": (*CCTKIT, "plot-lr"),
        "cctkit plot-lr --output": (*CCTKIT, "plot-lr", "--output", str(folder / "lr.png")),
        "cctkit summarize": (*CCTKIT, "summarize", "--model", "cct_2_3x2"),
        "cctkit eval": (*CCTKIT, "eval", str(folder / "run"), "--quiet"),
    }


def seconds(arguments: tuple[str, ...], folder: Path) -> float:
    """The time of one call, in an empty folder.

    Raises: CalledProcessError where it fails.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, *TRAIN, "--output", str(folder / "run")], cwd=folder, check=True, capture_output=True)
        calls = commands(folder)
        times: dict[str, float | None] = dict.fromkeys(calls, float("inf"))
        for _ in range(args.rounds):
            for shown, arguments in calls.items():
                known = times[shown]
                if known is None:
                    continue
                try:
                    times[shown] = min(known, seconds(arguments, folder))
                except subprocess.CalledProcessError as error:
                    sys.stderr.write(f"{shown}: {error.stderr.decode().strip()}\n")
                    times[shown] = None
    if args.json:
        print(json.dumps({"schema_version": 1, "seconds": times}, indent=2))
        return
    for shown, time_s in times.items():
        print(f"{shown:26} {'failed' if time_s is None else f'{time_s:6.2f} s'}")


if __name__ == "__main__":
    main()
