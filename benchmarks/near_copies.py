"""Measure how many re-encoded and resized copies `cctkit check` finds: `python -m benchmarks.near_copies FOLDER`.

Copies are made of up to 1,000 images of the folder, drawn with seed 0, and compared as they would be stored for 32 x 32. At
the end are the pairs of near copies among the images themselves.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cctkit.data.check.near_copies import LEAST_AGREEMENT, MOST_BITS, agreement, dhashes, near_copies
from cctkit.data.preprocess import Preprocess, decode, suffixes

_MOST = 1000
_STORED = Preprocess(stored_size=(32, 32))
Change = Callable[[Image.Image], Image.Image]


def encoded(kind: str, quality: int) -> Change:
    """Re-encode an image with loss."""

    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, kind, quality=quality)
        return Image.open(file).convert("RGB")

    return change


def resized(factor: float, then: Change = lambda image: image) -> Change:
    """Resize an image, then change it further."""

    def change(image: Image.Image) -> Image.Image:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return then(image.resize(size, Image.Resampling.BICUBIC))

    return change


CHANGES: dict[str, Change] = {
    **{f"JPEG, quality {quality}": encoded("JPEG", quality) for quality in (95, 75, 50, 30)},
    "WebP, quality 80": encoded("WEBP", 80),
    **{f"{factor} x the size": resized(factor) for factor in (0.25, 0.5, 0.75, 2)},
    **{f"{factor} x the size, JPEG 75": resized(factor, encoded("JPEG", 75)) for factor in (0.25, 0.5, 0.75, 2)},
}


def main(folder: str) -> None:
    """Print a Markdown table of the fraction of copies that are found."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes())
    images = [Image.fromarray(decode(str(path)).pixels) for path in paths]
    stored = np.stack([_STORED.resize(np.asarray(image)) for image in images])
    hashes = dhashes(stored)
    drawn = np.random.default_rng(0).choice(len(images), min(_MOST, len(images)), replace=False)
    print(f"{len(images):,} images, copies of {len(drawn):,}\n\n| change | found |\n| --- | ---: |")
    for name, change in CHANGES.items():
        copies = np.stack([_STORED.resize(np.asarray(change(images[int(i)]))) for i in drawn])
        is_close = np.bitwise_count(dhashes(copies) ^ hashes[drawn]) <= MOST_BITS
        found = is_close & (agreement(copies, stored[drawn]) >= LEAST_AGREEMENT)
        print(f"| {name} | {100 * found.mean():.1f}% |", flush=True)
    groups = near_copies(np.arange(len(images)), hashes, lambda rows: stored[rows], lambda: None)
    print(f"\nnear copies among the images themselves: {len(groups)} groups")
    for group in groups:
        print("  " + " = ".join(paths[row].name for row in group))


if __name__ == "__main__":
    main(sys.argv[1])
