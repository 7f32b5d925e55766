"""Start-up time of the commands, compared with an empty Python and `import torch`: `python -m benchmarks.startup`.

Each command runs in its own process, in turns. Prints its shortest time and its peak memory, and how much of both exceeds that
of the imports it needs. `eval` evaluates a run on the digits that is trained first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TORCH, TORCHVISION = "import torch", "import torch, torchvision"
CCTKIT = ("-m", "cctkit")
TRAIN = (*CCTKIT, "train", "--dataset", "digits", "--image-size", "16", "--epochs", "1", "--quiet")


@dataclass(slots=True, kw_only=True)
class Command:
    """Arguments of the interpreter, and what they took.

    beside: the command of `commands` to compare with.
    seconds: the shortest time.
    peak_mb: the most memory in MB of 2^20 bytes.
    """

    arguments: tuple[str, ...]
    beside: str | None = None
    seconds: float = float("inf")
    peak_mb: float = 0.0

    def run(self, folder: Path) -> None:
        """Run it once in `folder`. SystemExit if it fails."""
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *self.arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        self.peak_mb = max(self.peak_mb, usage.ru_maxrss / 2**10)
        if process.returncode:
            sys.exit(f"{' '.join(self.arguments)}: {said.decode().strip()}")
        self.seconds = min(self.seconds, seconds)


def commands(folder: Path) -> dict[str, Command]:
    """Shown name -> command."""
    large = ("summarize", "--model", "vit_h_14", "--image-size", "224")
    return {
        "python -c pass": Command(arguments=("-c", "pass")),
        TORCH: Command(arguments=("-c", TORCH)),
        TORCHVISION: Command(arguments=("-c", TORCHVISION)),
        "cctkit --help": Command(arguments=(*CCTKIT, "--help")),
        "cctkit compare": Command(arguments=(*CCTKIT, "compare")),
        "cctkit plot-lr": Command(arguments=(*CCTKIT, "plot-lr")),
        "cctkit plot-lr --output": Command(arguments=(*CCTKIT, "plot-lr", "--output", str(folder / "lr.png"))),
        "cctkit summarize": Command(arguments=(*CCTKIT, "summarize", "--model", "cct_6_3x1"), beside=TORCH),
        "cctkit summarize, ViT-H/14": Command(arguments=(*CCTKIT, *large), beside=TORCHVISION),
        "cctkit eval": Command(arguments=(*CCTKIT, "eval", str(folder / "run"), "--quiet"), beside=TORCH),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, *TRAIN, "--output", str(folder / "run")], cwd=folder, check=True, capture_output=True)
        calls = commands(folder)
        for _ in range(args.rounds):
            for call in calls.values():
                call.run(folder)
    if args.json:
        times = {shown: call.seconds for shown, call in calls.items()}
        peaks = {shown: call.peak_mb for shown, call in calls.items()}
        print(json.dumps({"schema_version": 1, "seconds": times, "peak_mb": peaks}, indent=2))
        return
    for shown, call in calls.items():
        beyond = ""
        if call.beside:
            imports = calls[call.beside]
            more_s, more_mb = call.seconds - imports.seconds, call.peak_mb - imports.peak_mb
            beyond = f"   {more_s:+.2f} s and {more_mb:+.0f} MB beside {call.beside}"
        print(f"{shown:28} {call.seconds:6.2f} s {call.peak_mb:6.0f} MB{beyond}")


if __name__ == "__main__":
    main()
