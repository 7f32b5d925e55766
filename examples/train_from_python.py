"""Train on a folder of images, then classify one image with the result.

python examples/train_from_python.py path/to/images path/to/image.jpg runs/mine
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import cctkit


def classify(model: torch.nn.Module, info: Any, path: Path) -> tuple[str, float]:
    """The most probable class of an image file, and its probability."""
    height, width = info.model.image_size
    with Image.open(path) as file:
        pixels = np.array(file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))  # (H, W, 3)
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255  # (3, H, W)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std))
    with torch.inference_mode():
        probabilities = model(((image - mean) / std).unsqueeze(0)).softmax(dim=1)[0]  # (K,)
    best = int(probabilities.argmax())
    return info.class_names[best], float(probabilities[best])


def main(images: Path, image: Path, run: Path, **settings: Any) -> tuple[str, float]:
    """settings: those of `cctkit train`, by the names of its flags: `epochs=10, image_size=64`."""
    result = cctkit.fit(dataset=str(images), output=run, **settings)
    low, high = result["top1_interval_percent"]
    print(f"top-1 {result['top1_percent']:.2f}% on {result['num_images']} test images (95% interval {low:.2f} to {high:.2f})")
    model, info = cctkit.load(run)
    name, probability = classify(model, info, image)
    print(f"{image.name}: {name} ({100 * probability:.1f}%)")
    return name, probability


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]), epochs=10)
