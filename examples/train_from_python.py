"""Train on a folder of images, then classify one image with the result.

python examples/train_from_python.py path/to/images path/to/image.jpg runs/mine
"""

import sys
from pathlib import Path
from typing import Any

import cctkit


def main(images: Path, image: Path, run: Path, **settings: Any) -> tuple[str, float]:
    """Train with settings named as the flags of `cctkit train`, such as `epochs=10, image_size=64`, and classify `image`."""
    result = cctkit.fit(dataset=str(images), output=run, **settings)
    low, high = result["top1_interval_percent"]
    print(f"top-1 {result['top1_percent']:.2f}% on {result['num_images']} test images (95% interval {low:.2f} to {high:.2f})")
    (found,) = cctkit.Classifier(run).predict(image)
    print(f"{image.name}: {found.class_name} ({100 * found.probability:.1f}%)")
    return found.class_name, found.probability


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]), epochs=10)
