"""A folder of images spoilt in twelve ways, and what `cctkit check` finds of them: `python -m benchmarks.spoilt FOLDER`.

The images are some classes of a folder (`train/CLASS/*` and `test/CLASS/*`, such as CIFAR-100's), or digits of the package in
colours. Each file is renamed after a plant that it is said to show, four images per plant. Then every way spoils a few images,
drawn by the seed. --mend FOLDER follows the remedies of the check, as a person would by hand.

With --count N this is done in temporary folders with the seeds 0 to N - 1, and a table says how many of the spoilt things
`cctkit check` has found and missed, and what it has invented: neither spoilt nor found before it was spoilt.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.spoil_ways import ONCE, WAYS, Folder, Planted
from cctkit.config.settings import DataConfig
from cctkit.data.check.check import check_dataset
from cctkit.data.check.finding import CheckFinding
from cctkit.data.sources.digits import digits_origin

GROUP_BY = r"plant[0-9]+"
SPLITS = ("train", "test")
_PER_PLANT = 4


def write_clean(source: str, root: Path, rng: np.random.Generator, args: argparse.Namespace) -> tuple[list[str], int]:
    """The images before they are spoilt, drawn from `source`; return the class names and the number of plants."""
    pictures = digit_pictures(rng, args.classes) if source == "digits" else folder_pictures(Path(source), rng, args.classes)
    plants = 0
    for name, by_split in pictures:
        for split, number in zip(SPLITS, (args.train, args.test), strict=True):
            (root / split / name).mkdir(parents=True)
            drawn = rng.choice(len(by_split[split]), min(number, len(by_split[split])), replace=False)
            for place, i in enumerate(drawn.tolist()):
                plants += place % _PER_PLANT == 0
                image = by_split[split][i]
                (Image.open(image) if isinstance(image, Path) else image).save(
                    root / split / name / f"plant{plants:04}-{place % _PER_PLANT}.png"
                )
    return sorted(path.name for path in (root / "train").iterdir()), plants


def folder_pictures(source: Path, rng: np.random.Generator, classes: int) -> Iterator[tuple[str, dict[str, Sequence[Path]]]]:
    names = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    for name in rng.choice(names, classes, replace=False).tolist():
        yield name, {split: sorted((source / split / name).iterdir()) for split in SPLITS}


def digit_pictures(rng: np.random.Generator, classes: int) -> Iterator[tuple[str, dict[str, Sequence[Image.Image]]]]:
    """The first digits of the package, at 32 x 32, in ink of one colour on paper of another; three quarters to train with."""
    digits = digits_origin().load(lambda *_: None)
    for name in digits.class_names[:classes]:
        rows = np.flatnonzero(digits.labels == int(name)).tolist()
        images = [_coloured(digits.read(i).pixels, rng) for i in rows]
        edge = 3 * len(images) // 4
        yield f"digit_{name}", {"train": images[:edge], "test": images[edge:]}


def _coloured(digit: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], rng: np.random.Generator) -> Image.Image:
    strength = (
        np.asarray(Image.fromarray(digit).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    )  # (32, 32, 3)
    paper, ink = rng.integers(110, 256, 3), rng.integers(0, 90, 3)
    noise = rng.normal(0, 8, strength.shape)
    return Image.fromarray((paper + (ink - paper) * strength + noise).clip(0, 255).astype(np.uint8))


def spoil(
    root: Path, args: argparse.Namespace, seed: int, *, check_before: bool = False
) -> tuple[dict[str, list[Planted]], list[Planted]]:
    """Write a spoilt folder; return what was spoilt, by way, and what the check finds before that."""
    rng = np.random.default_rng(seed)
    names, plants = write_clean(args.source, root, rng, args)
    before = [item for finding in findings_in(root) for item in items(finding)] if check_before else []
    folder = Folder(root=root, rng=rng, whole=names, plants=plants, small=args.small)
    planted = {way: [work(folder)] for way, work in ONCE.items()}
    planted |= {way: [work(folder) for _ in range(args.each)] for way, work in WAYS.items()}
    return planted, before


def findings_in(root: Path) -> Sequence[CheckFinding]:
    config = DataConfig(dataset=str(root), group_by=GROUP_BY)
    return check_dataset(config, progress=lambda *_: None, notify=lambda _: None).findings


def items(finding: CheckFinding) -> list[Planted]:
    """What a finding names: groups of paths, or paths."""
    return [Planted(finding.kind, frozenset(group)) for group in finding.groups or [(path,) for path in finding.paths]]


def count(args: argparse.Namespace) -> dict[str, Any]:
    """Spoil a folder with each seed, and compare what was spoilt with what is found."""
    spoilt: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    earlier: Counter[str] = Counter()
    invented: list[tuple[int, Planted]] = []
    for seed in range(args.count):
        with tempfile.TemporaryDirectory() as name:
            planted, before = spoil(Path(name) / "images", args, seed, check_before=True)
            found = [item for finding in findings_in(Path(name) / "images") for item in items(finding)]
        everything = [each for many in planted.values() for each in many]
        for way, many in planted.items():
            spoilt[way] += len(many)
            missed[way] += sum(not any(is_found(each, item) for item in found) for each in many)
        earlier.update(item.kind for item in before)
        known = {identity(item) for item in before}
        others = [item for item in found if not any(is_found(each, item) for each in everything)]
        invented += [(seed, item) for item in others if identity(item) not in known]
    ways = {way: {"spoilt": spoilt[way], "missed": missed[way]} for way in spoilt}
    named = [{"seed": seed, "kind": item.kind, "paths": sorted(item.paths)} for seed, item in invented]
    return {"schema_version": 1, "seeds": args.count, "ways": ways, "before": dict(earlier), "invented": named}


def identity(item: Planted) -> tuple[str, frozenset[str]]:
    """The same before and after a file is renamed or moved: each has a name of its own."""
    return item.kind, frozenset(Path(path).stem for path in item.paths)


def is_found(planted: Planted, item: Planted) -> bool:
    return planted.kind == item.kind and planted.paths <= item.paths


def table(result: Mapping[str, Any]) -> str:
    lines = ["| spoilt by | spoilt | found | missed |", "| --- | ---: | ---: | ---: |"]
    for way, each in result["ways"].items():
        lines.append(f"| {way} | {each['spoilt']} | {each['spoilt'] - each['missed']} | {each['missed']} |")
    before = ", ".join(f"{kind} {number}" for kind, number in result["before"].items()) or "nothing"
    lines += ["", f"found before anything was spoilt: {before}", f"invented: {len(result['invented'])}"]
    return "\n".join([*lines, *map(json.dumps, result["invented"])])


def mend(root: Path) -> list[str]:
    """Follow the remedies of the check where there is one to follow; return what was done."""
    done: list[str] = []
    for finding in findings_in(root):
        for item in items(finding):
            for path in sorted(root / path for path in item.paths):
                in_test = path.relative_to(root).parts[0] == "test"
                if finding.kind in {"broken", "uniform", "unread_format"}:
                    path.unlink()
                elif finding.kind.endswith("copies_across_splits") and in_test:
                    path.unlink(missing_ok=True)
                elif finding.kind == "groups_across_splits" and in_test and path.exists():
                    path.rename(root / "train" / path.parent.name / path.name)
                elif finding.kind == "nested_class":
                    for file in path.iterdir():
                        file.rename(path.parents[1] / path.name / file.name)
                    path.rmdir()
                elif finding.kind == "missing_class":
                    path.mkdir(parents=True)
                    plants = sorted((root / "train" / path.name).iterdir())
                    for file in plants[: len(plants) // 4 // _PER_PLANT * _PER_PLANT]:
                        file.rename(path / file.name)
                else:
                    continue
                done.append(f"{finding.kind}: {path.relative_to(root)}")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a new folder to write, or with --mend one to mend")
    parser.add_argument("--source", default="digits", help="a folder with train/CLASS/* and test/CLASS/*, or digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--train", type=int, default=60, help="training images per class")
    parser.add_argument("--test", type=int, default=20, help="test images per class")
    parser.add_argument("--small", type=int, default=5, help="training images of the small class")
    parser.add_argument("--each", type=int, default=2, help="how often each way spoils something, but for whole classes")
    parser.add_argument("--count", type=int, metavar="N", help="count what is found in the folders of N seeds")
    parser.add_argument("--mend", action="store_true", help="follow the remedies of the check")
    parser.add_argument("--json", action="store_true", help="print what was counted as JSON")
    args = parser.parse_args()
    if args.count is not None:
        result = count(args)
        print(json.dumps(result, indent=2) if args.json else table(result))
    elif args.folder is None:
        parser.error("name a folder, or --count N")
    elif args.mend:
        print("\n".join(mend(args.folder)))
    elif args.folder.exists():
        parser.error(f"{args.folder} exists, and nothing is overwritten")
    else:
        planted, _ = spoil(args.folder, args, args.seed)
        for way, many in planted.items():
            print(f"{way}: {', '.join(path for each in many for path in sorted(each.paths))}")


if __name__ == "__main__":
    main()
