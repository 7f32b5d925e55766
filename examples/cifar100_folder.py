"""Write CIFAR-100 as a folder of PNG files, with the names that its authors gave them.

    python examples/cifar100_folder.py DOWNLOADS FOLDER

The archive is downloaded to DOWNLOADS unless it is there. The runs of docs/measurements.md were made on such a FOLDER: an epoch
is a permutation of the sorted paths, so the same images under other names give another run.
"""

import pickle
import sys
from pathlib import Path

from PIL import Image
from torchvision.datasets import CIFAR100


def main(downloads: Path, folder: Path) -> None:
    for split in ("train", "test"):
        images = CIFAR100(str(downloads), train=split == "train", download=True)  # compares the MD5 of its files
        batch = pickle.loads((downloads / images.base_folder / split).read_bytes(), encoding="latin1")
        for name, pixels, label in zip(batch["filenames"], images.data, images.targets, strict=True):
            path = folder / split / images.classes[label] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        print(f"wrote {len(images)} images to {folder / split}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
