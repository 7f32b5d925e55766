"""An exported model without torch against cctkit, on image files of all kinds, and with mistakes made on purpose.

    python -m benchmarks.deployed files PHOTOS FOLDER          # 200 files of many modes, sizes and EXIF orientations
    python -m benchmarks.deployed compare MODEL FILE.onnx FOLDER [--python PYTHON] [--mistakes]

`files` makes them from the photographs in the folder PHOTOS, such as the sample images of scikit-image. `compare` classifies
every file in FOLDER by the weights in torch, and by `examples/onnx_without_torch.py`, which PYTHON runs: in an environment
without torch. It fails if a class differs where torch's two highest logits are more than 1e-3 apart. `--mistakes` repeats it
with each of MISTAKES made in the example, and fails if one changes no class.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cctkit.data.preprocess import suffixes
from cctkit.evaluation.calibration import probabilities
from cctkit.evaluation.load import load_trained
from cctkit.export.verify import MARGIN

EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_without_torch.py"
_ORIENTATION = 0x0112
_BATCH = 250
MISTAKES: Mapping[str, tuple[str, str]] = {
    "BGR for RGB": ('{"images": images}', '{"images": images[..., ::-1].copy()}'),
    "resized without antialiasing": (
        "image.resize((width, height), Image.Resampling.BILINEAR, box=box)",
        "image.transform((width, height), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)",
    ),
    "resized by another filter": ("Image.Resampling.BILINEAR", "Image.Resampling.BICUBIC"),
    "cropped one pixel off": ("(image.width - wide) / 2,", "(image.width - wide) / 2 + 1,"),
    "squashed for cropped": ('crop == "center"', "False"),
    "EXIF orientation ignored": ("ImageOps.exif_transpose(image, in_place=True)", "pass"),
    "alpha dropped": ('image.mode in WITH_ALPHA or "transparency" in image.info', "False"),
    "transparency over black": ('layer.size, "white"', 'layer.size, "black"'),
    "16 bits clipped": ('image.mode.startswith("I")', "False"),
}
"""Mistakes of deployed preprocessing: the part of the example's text that each replaces, and by what."""


def _with_alpha(image: Image.Image, draws: np.random.Generator) -> Image.Image:
    ramp = np.linspace(0, 255, image.width, dtype=np.uint8)[None].repeat(image.height, axis=0)
    image = image.copy()
    image.putalpha(Image.fromarray(ramp if draws.random() < 0.5 else ramp[:, ::-1].copy()))
    return image


def _deep(image: Image.Image, draws: np.random.Generator) -> Image.Image:
    grey = np.asarray(image.convert("L")).astype(np.uint16)
    return Image.fromarray(grey * 256 + draws.integers(0, 256, grey.shape, dtype=np.uint16))


def _clear_palette(image: Image.Image, _: np.random.Generator) -> Image.Image:
    image = image.quantize(64)
    image.info["transparency"] = int(np.bincount(np.asarray(image).ravel()).argmax())
    return image


# The kind of a file -> its ending, and the image in its mode.
KINDS: Mapping[str, tuple[str, Callable[[Image.Image, np.random.Generator], Image.Image]]] = {
    "rgb": (".png", lambda image, _: image),
    "jpeg": (".jpg", lambda image, _: image),
    "turned": (".jpg", lambda image, _: image),
    "turned-png": (".png", lambda image, _: image),
    "rgba": (".png", _with_alpha),
    "la": (".png", lambda image, draws: _with_alpha(image.convert("L"), draws)),
    "grey": (".png", lambda image, _: image.convert("L")),
    "16-bit": (".png", _deep),
    "16-bit-tiff": (".tif", _deep),
    "cmyk": (".jpg", lambda image, _: image.convert("CMYK")),
    "cmyk-tiff": (".tif", lambda image, _: image.convert("CMYK")),
    "palette": (".png", lambda image, _: image.quantize(64)),
    "clear-palette": (".png", _clear_palette),
    "gif": (".gif", lambda image, _: image.quantize(64)),
    "webp": (".webp", lambda image, _: image),
    "two-colours": (".png", lambda image, _: image.convert("1")),
}


def make_files(photos: Sequence[Image.Image], folder: Path, *, number: int = 200, seed: int = 0) -> None:
    """Random crops of the photographs, from 24 to 400 pixels a side, of each kind in turn."""
    draws = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    kinds = list(KINDS.items())
    for index in range(number):
        photo = photos[draws.integers(len(photos))].convert("RGB")
        width, height = (int(draws.integers(min(24, side), min(400, side) + 1)) for side in photo.size)
        left, top = draws.integers(photo.width - width + 1), draws.integers(photo.height - height + 1)
        kind, (suffix, in_mode) = kinds[index % len(kinds)]
        image = in_mode(photo.crop((int(left), int(top), int(left) + width, int(top) + height)), draws)
        exif = Image.Exif()
        if kind.startswith("turned"):
            exif[_ORIENTATION] = int(draws.integers(2, 9))
        image.save(folder / f"{index:03}-{kind}{suffix}", **({"exif": exif} if exif else {}))


def torch_logits(model: Path, paths: Sequence[str]) -> tuple[torch.Tensor, tuple[str, ...], float | None]:
    """The logits of image files, float32 (n, K), by the weights of a run, the class names, and the temperature."""
    loaded = load_trained(model)
    parts = []
    with torch.inference_mode():
        for first in range(0, len(paths), _BATCH):
            images = torch.from_numpy(np.stack([loaded.preprocess.load(path) for path in paths[first : first + _BATCH]]))
            parts.append(loaded.model(loaded.preprocess.to_input(images, channels_last=False)))
    return torch.cat(parts), loaded.info.class_names, loaded.info.temperature


def with_mistake(name: str) -> str:
    """The text of the example with this mistake."""
    text, (right, wrong) = EXAMPLE.read_text(encoding="utf-8"), MISTAKES[name]
    if text.count(right) != 1:
        raise ValueError(f"the example has {right!r} {text.count(right)} times")
    return text.replace(right, wrong)


def run_example(text: str, onnx: Path, paths: Sequence[str], *, python: str) -> list[tuple[str, float]]:
    """The class and probability of each file, by a version of the example."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / EXAMPLE.name
        script.write_text(text, encoding="utf-8")
        done = subprocess.run([python, script, onnx, *paths], stdout=subprocess.PIPE, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(paths)
    return [(name, float(probability)) for _, name, probability in rows]


def compare(
    found: Sequence[tuple[str, float]], logits: torch.Tensor, class_names: Sequence[str], temperature: float | None
) -> tuple[int, int, float]:
    """Changed classes, beyond and within MARGIN, and the greatest difference of the highest probability."""
    best, second = logits.topk(2, dim=1).values.unbind(dim=1)
    is_clear = (best - second > MARGIN).tolist()
    differs = [name != class_names[i] for (name, _), i in zip(found, logits.argmax(dim=1).tolist(), strict=True)]
    confidence = torch.tensor([probability for _, probability in found])
    beyond = sum(each and clear for each, clear in zip(differs, is_clear, strict=True))
    return beyond, sum(differs) - beyond, float((confidence - probabilities(logits, temperature).amax(dim=1)).abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    files = commands.add_parser("files")
    files.add_argument("photos", type=Path)
    files.add_argument("folder", type=Path)
    comparing = commands.add_parser("compare")
    for name in ("model", "onnx", "folder"):
        comparing.add_argument(name, type=Path)
    comparing.add_argument("--python", default=sys.executable)
    comparing.add_argument("--mistakes", action="store_true")
    args = parser.parse_args()
    if args.command == "files":
        sources = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in suffixes())
        make_files([Image.open(path) for path in sources], args.folder)
        return 0
    paths = [str(path) for path in sorted(args.folder.rglob("*")) if path.suffix.lower() in suffixes()]
    expected = torch_logits(args.model, paths)
    failed = False
    print(
        f"{len(paths):,} files\nthe example                    changed classes   closer than {MARGIN:g}   probability, by up to"
    )
    for name in ("as it is", *(MISTAKES if args.mistakes else ())):
        text = with_mistake(name) if name in MISTAKES else EXAMPLE.read_text(encoding="utf-8")
        changed, close, difference = compare(run_example(text, args.onnx, paths, python=args.python), *expected)
        failed |= (changed > 0) == (name not in MISTAKES)
        print(f"{name:30} {changed:>15,} {close:>19,} {difference:>24.4f}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
