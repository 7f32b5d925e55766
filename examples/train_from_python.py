"""Train on a folder of images, then classify one image with the result.

    python examples/train_from_python.py path/to/images path/to/image.jpg runs/mine

The image is decoded, resized and normalised as `cctkit eval` does it.
"""

import sys
from pathlib import Path
from typing import Any

import torch

import cctkit
from cctkit.data.preprocess import Preprocess
from cctkit.models.weights import WeightsInfo


def classify(model: torch.nn.Module, info: WeightsInfo, path: Path) -> tuple[str, float]:
    """The most probable class of an image file, and its probability."""
    preprocess = Preprocess(
        stored_size=info.upsampling.stored_size if info.upsampling else info.model.image_size,
        resize_mode=info.resize_mode,
        mean=info.mean,
        std=info.std,
        image_size=info.model.image_size,
    )
    images = torch.tensor(preprocess.load(str(path))).unsqueeze(0)  # uint8 (1, 3, h, w)
    with torch.inference_mode():
        logits = model(preprocess.to_input(images, channels_last=False))  # (1, K)
    probability, label = logits.softmax(dim=1).max(dim=1)
    return info.class_names[int(label)], float(probability)


def main(images: Path, image: Path, run: Path, **settings: Any) -> tuple[str, float]:
    """Train with settings named as the flags of `cctkit train`, such as `epochs=10, image_size=64`, and classify `image`."""
    result = cctkit.fit(dataset=str(images), output=run, **settings)
    low, high = result["top1_interval_percent"]
    print(f"top-1 {result['top1_percent']:.2f}% on {result['num_images']} test images (95% interval {low:.2f} to {high:.2f})")
    model, info = cctkit.load(run)
    name, probability = classify(model, info, image)
    print(f"{image.name}: {name} ({100 * probability:.1f}%)")
    return name, probability


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]), epochs=10)
