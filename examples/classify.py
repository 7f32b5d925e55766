"""Classify images with a trained model, in two ways: files at once, and through a DataLoader of your own.

    python examples/classify.py runs/mine path/to/images

The images lie in one folder per class, as torchvision's ImageFolder reads them; `Classifier.predict` needs no such folders.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import cctkit


def main(run: Path, folder: Path) -> tuple[list[cctkit.Prediction], torch.Tensor]:
    """Print the two most probable classes of each image; return the predictions, and the logits (n, K) of the DataLoader."""
    classifier = cctkit.Classifier(run)
    # ImageFolder's own loader would ignore EXIF orientation and make transparent pixels black.
    data = ImageFolder(str(folder), transform=classifier.transform, loader=Image.open)
    paths = [path for path, _ in data.samples]

    predictions = classifier.predict(paths, top=2)
    for path, found in zip(paths, predictions, strict=True):
        print(path, *(f"{name} {100 * probability:.1f}%" for name, probability in found.top), sep="  ")

    with torch.inference_mode():
        batches = [classifier.model(images) for images, _ in DataLoader(data, batch_size=100)]  # each (B, K)
    return predictions, torch.cat(batches)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
