"""Spoilt files through the command: exit 2, three lines that name the file, and nothing else on the disk."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from unittest import mock

from cctkit.catalog.datasets import DATASETS
from tests.robustness.originals import Originals
from tests.robustness.output import printed_by

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\x02\0\0\0"
KINDS: Mapping[str, Callable[[bytes], bytes]] = {
    "cut off": lambda data: data[: len(data) // 4],
    "empty": lambda data: b"",
    "a note": lambda data: b"this is not the file that it was\n",
    "zeros": lambda data: bytes(1000),
    "another format": lambda data: _PNG if data[:4] != _PNG[:4] else b"PK\x03\x04" + data,
    "start gone": lambda data: data[10:],
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """place: makes what the command needs in an empty folder, and gives the files that are spoilt.

    words: the command; named: a part of a path that its message has to contain.
    """

    place: Callable[[Originals, Path], list[Path]]
    words: Callable[[Path], list[str]]
    named: str
    without: tuple[str, ...] = ()


def _run(*patterns: str) -> Callable[[Originals, Path], list[Path]]:
    def place(originals: Originals, folder: Path) -> list[Path]:
        shutil.copytree(originals.run, folder / "run")
        return sorted(path for pattern in patterns for path in (folder / "run").glob(pattern))

    return place


def _file(name: str, source: Callable[[Originals], Path]) -> Callable[[Originals, Path], list[Path]]:
    return lambda originals, folder: [Path(shutil.copy(source(originals), folder / name))]


def _image(originals: Originals, folder: Path) -> list[Path]:
    shutil.copytree(originals.images, folder / "images")
    return [folder / "images" / "cat" / "3.png"]


def _archive(originals: Originals, folder: Path) -> list[Path]:
    shutil.copytree(originals.archives["cifar_python"][1], folder / "data")
    return [path for path in (folder / "data").rglob("*") if path.is_file()]


def _text(name: str, data: bytes) -> Callable[[Originals, Path], list[Path]]:
    def place(originals: Originals, folder: Path) -> list[Path]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / name).with_name(".cctkit.lock").touch()  # as a directory of seeds has one
        return [folder / name]

    return place


_SEEDS = b'{"schema_version": 1, "seeds": [0], "request": {"flags": {}, "file_values": {}, "file_name": "a", "recipe": null}}'
FORMATS: Mapping[str, Format] = {
    "weights": Format(
        place=_file("w.safetensors", lambda each: each.run / "weights.safetensors"),
        words=lambda at: ["eval", str(at / "w.safetensors")],
        named="w.safetensors",
    ),
    "every checkpoint": Format(
        place=_run("checkpoints/*/model.safetensors"),
        words=lambda at: ["train", "--resume", str(at / "run")],
        named="checkpoints",
    ),
    "config.json": Format(
        place=_run("config.json"), words=lambda at: ["train", "--resume", str(at / "run")], named="config.json"
    ),
    "env.json": Format(place=_run("env.json"), words=lambda at: ["eval", str(at / "run")], named="env.json"),
    "metrics.jsonl": Format(place=_run("metrics.jsonl"), words=lambda at: ["curves", str(at / "run")], named="metrics.jsonl"),
    "result.json": Format(
        place=_run("result.json"), words=lambda at: ["card", str(at / "run"), "-o", str(at / "new")], named="result.json"
    ),
    "predictions": Format(
        place=_run("predictions.safetensors"),
        words=lambda at: ["compare", "--paired", str(at / "run"), str(at / "run")],
        named="predictions.safetensors",
    ),
    "seeds.json": Format(
        place=_text("seeds/seeds.json", _SEEDS),
        words=lambda at: ["train", "--resume", str(at / "seeds")],
        named="seeds.json",
    ),
    "settings, TOML": Format(
        place=_text("a.toml", b'recipe = "fast"\nepochs = 2\n'),
        words=lambda at: ["train", "--dataset", "digits", "--config", str(at / "a.toml")],
        named="a.toml",
        without=("empty",),
    ),
    "packed images": Format(
        place=_file("packed", lambda each: each.packed),
        words=lambda at: ["train", "--dataset", str(at / "packed")],
        named="packed",
    ),
    "image": Format(
        place=_image, words=lambda at: ["pack", str(at / "images"), "-o", str(at / "new"), "--image-size", "8"], named="3.png"
    ),
    "archive": Format(
        place=_archive,
        words=lambda at: ["pack", "cifar100", "--data-dir", str(at / "data"), "-o", str(at / "new"), "--no-download"],
        named="cifar-100-python.tar.gz",
    ),
    "ONNX file": Format(
        place=_file("m.onnx", lambda each: each.onnx),
        words=lambda at: ["eval", str(at / "m.onnx")],
        named="m.onnx",
    ),
    "foreign .pth": Format(
        place=_file("w.pth", lambda each: each.foreign["zip"]),
        words=lambda at: ["import", str(at / "w.pth"), "-m", "cct_2_3x1", "-o", str(at / "new")],
        named="w.pth",
    ),
}
CASES = [(name, kind) for name, each in FORMATS.items() for kind in KINDS if kind not in each.without]


def faults_of(name: str, kind: str, originals: Originals, folder: Path) -> Iterator[str]:
    """What is wrong with how the command takes this format, spoilt in this way."""
    form = FORMATS[name]
    folder.mkdir(parents=True)
    for path in form.place(originals, folder):
        path.write_bytes(KINDS[kind](path.read_bytes()))
    before = _contents(folder)
    known = MappingProxyType({**DATASETS, "cifar100": originals.archives["cifar_python"][0]})
    with mock.patch("cctkit.data.images.DATASETS", known):
        code, out, err = printed_by(form.words(folder))
    message = err[max(0, err.find("error:")) :].splitlines()
    if code != 2:
        yield f"exit code {code}, expected 2: {out[-200:]} {err[-300:]}"
    if len(message) > 3 or not message or not message[0].startswith("error: "):
        yield f"not an error in three lines: {err[-500:]!r}"
    if form.named not in " ".join(message):
        yield f"{form.named} is not named: {' '.join(message)[-300:]}"
    after = _contents(folder)
    if after != before:
        yield f"changed on the disk: {sorted(str(path) for path in after.keys() ^ before.keys())}"


def _contents(folder: Path) -> dict[Path, bytes]:
    """All files, without the journal of a packing: `--skip-bad` goes on from there, and decodes no image again."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".part" not in path.suffixes}
