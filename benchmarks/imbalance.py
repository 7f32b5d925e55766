"""Class weights and balanced sampling against neither: `python -m benchmarks.imbalance --dataset FOLDER`.

Trains on some classes of a folder of images (`train/CLASS/*` and `test/CLASS/*`, such as those of CIFAR-100). Their numbers of
training images fall exponentially from class to class, as in the long-tailed CIFAR of Cui et al. (2019, Class-balanced loss).
All their test images are used. Every way is trained with the same seeds.

Prints the balanced accuracy of each way and its paired difference from training with neither, with two 95% intervals: over the
test images, and over the seeds. Writes them to `imbalance.json` in --output.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cctkit.runs.predictions import read_predictions

Array = np.ndarray[Any, Any]

PLAIN = "neither"
WAYS: Mapping[str, Sequence[str]] = {
    PLAIN: [],
    "--class-weights 0.5": ["--class-weights", "0.5"],
    "--class-weights": ["--class-weights"],
    "--balanced-sampling 0.5": ["--balanced-sampling", "0.5"],
    "--balanced-sampling": ["--balanced-sampling"],
}
Z95 = 1.959963984540054
# The 97.5% quantile of Student's t by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def class_sizes(largest: int, classes: int, imbalance: float) -> list[int]:
    """Training images of each class: from `largest` down to `largest / imbalance`, in equal ratios."""
    return [round(largest * imbalance ** (-i / (classes - 1))) for i in range(classes)]


def link_images(source: Path, target: Path, sizes: Mapping[str, int]) -> Path:
    """A folder `target` with links to so many training images of each class, and to all of its test images."""
    for side in ("train", "test"):
        for name, number in sizes.items():
            (target / side / name).mkdir(parents=True)
            for path in sorted((source / side / name).iterdir())[: number if side == "train" else None]:
                (target / side / name / path.name).symlink_to(path)
    return target


def correct_in(run: Path) -> tuple[Array, Array]:
    """The labels of a run's test images, int64 (n,), and whether each is classified correctly, bool (n,), ordered by id."""
    found = read_predictions(run / "predictions.safetensors")
    order = np.argsort(np.array(found.ids))
    return found.labels[order], (found.logits.argmax(axis=1) == found.labels)[order]


def balanced(labels: Array, values: Array) -> float:
    """The mean over the classes of the mean of `values` (n,) in each."""
    return float(np.mean([values[labels == label].mean() for label in np.unique(labels)]))


def paired_difference(labels: Array, plain: Sequence[Array], way: Sequence[Array]) -> dict[str, Any]:
    """The difference of the balanced accuracy between two ways that were trained with the same seeds, in percent.

    over_images: the interval from the differences of each test image, averaged over the seeds: what another draw of test images
        would change.
    over_seeds: Student's interval from the differences of each seed: what other seeds would change; None for one seed.

    labels: int64 (n,). plain, way: bool (n,), whether the images are classified correctly, per seed.
    """
    each = np.mean([own.astype(float) - other for own, other in zip(way, plain, strict=True)], axis=0)
    variances = [each[labels == label].var(ddof=1) / (labels == label).sum() for label in np.unique(labels)]
    mean, half = 100 * balanced(labels, each), 100 * Z95 * math.sqrt(sum(variances)) / len(variances)
    by_seed = [100 * (balanced(labels, own) - balanced(labels, other)) for own, other in zip(way, plain, strict=True)]
    over_seeds = None
    if len(by_seed) > 1:
        spread = T95[len(by_seed) - 1] * float(np.std(by_seed, ddof=1)) / math.sqrt(len(by_seed))
        over_seeds = [mean - spread, mean + spread]
    return {"percent": mean, "by_seed": by_seed, "over_images": [mean - half, mean + half], "over_seeds": over_seeds}


def train(folder: Path, run: Path, options: Sequence[str], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run of `cctkit train` in its own process: its `result.json`."""
    command = ["train", "--dataset", str(folder), "--model", args.model, "--recipe", "fast", "--epochs", str(args.epochs)]
    command += ["--batch-size", str(args.batch_size), "--seed", str(seed), *options]
    command += [] if args.threads is None else ["--threads", str(args.threads)]
    say(f"cctkit {' '.join(command)}")
    again = [sys.executable, "-m", "cctkit", *command, "--output", str(run), "--json", "--quiet"]
    return json.loads(subprocess.run(again, stdout=subprocess.PIPE, text=True, check=True).stdout)  # type: ignore[no-any-return]


def compare(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Train every way with every seed."""
    source = args.dataset.resolve()
    names = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    names = names[:: max(1, len(names) // args.classes)][: args.classes]
    sizes = dict(zip(names, class_sizes(args.images, len(names), args.imbalance), strict=True))
    say(f"training images: {', '.join(f'{name} {size}' for name, size in sizes.items())}")
    folder = link_images(source, place / "images", sizes)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    correct: dict[str, list[Array]] = {name: [] for name in WAYS}
    for seed in range(args.seeds):
        for i, (name, options) in enumerate(WAYS.items()):
            results[name].append(train(folder, place / f"{i}-{seed}", options, seed, args))
            labels, hits = correct_in(place / f"{i}-{seed}")
            correct[name].append(hits)
    small = names[len(names) // 2 :]
    settings = {key: value for key, value in vars(args).items() if key not in {"dataset", "output", "json"}}
    return {
        "schema_version": 1,
        "settings": settings,
        "train_images": sizes,
        "ways": {
            name: {
                "balanced_accuracy_percent": [each["balanced_accuracy_percent"] for each in results[name]],
                "macro_f1_percent": [each["macro_f1_percent"] for each in results[name]],
                "recall_percent_of_small_classes": [recall_of(each, small) for each in results[name]],
                "difference": None if name == PLAIN else paired_difference(labels, correct[PLAIN], correct[name]),
            }
            for name in WAYS
        },
    }


def recall_of(result: Mapping[str, Any], names: Sequence[str]) -> float:
    """The mean recall of some classes, in percent."""
    return float(np.mean([row["recall_percent"] for row in result["per_class"] if row["class"] in names]))


def table(result: Mapping[str, Any]) -> str:
    """A line per way: means over the seeds, and the paired difference with its intervals."""
    lines = [f"{'':24}  balanced  macro F1  smaller half   difference   over images      over seeds"]
    for name, row in result["ways"].items():
        keys = ("balanced_accuracy_percent", "macro_f1_percent", "recall_percent_of_small_classes")
        accuracy, f1, small = (float(np.mean(row[key])) for key in keys)
        line = f"{name:24}  {accuracy:7.2f}%  {f1:7.2f}%  {small:11.2f}%"
        if difference := row["difference"]:
            ends = (difference["over_images"], difference["over_seeds"])
            shown = [f"{low:+.2f} to {high:+.2f}" if pair else "-" for pair in ends for low, high in [pair or (0, 0)]]
            line += f"   {difference['percent']:+9.2f}   {shown[0]:15}  {shown[1]}"
        lines.append(line)
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="a folder with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for imbalance.json")
    parser.add_argument("--model", default="cct_2_3x2")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=500, help="training images of the largest class")
    parser.add_argument("--imbalance", type=float, default=50, help="of the largest to the smallest class")
    parser.add_argument("--seeds", type=int, choices=range(1, 11), default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        result = compare(args, Path(place))
    (args.output / "imbalance.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if args.json else table(result))
    say(f"{time.perf_counter() - start:.0f} s in total")


if __name__ == "__main__":
    main()
