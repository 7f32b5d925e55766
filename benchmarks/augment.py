"""The report's input side against `torchvision.transforms` on PIL, one process, one thread: `python benchmarks/augment.py`.

Both take uint8 images to normalised float batches by crop, flip and AutoAugment's CIFAR-10 policy; the two take turns, and
the medians are compared.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from cctkit.config import AugmentConfig
from cctkit.data.augment import augment, finish
from cctkit.data.loader import CHUNK_IMAGES
from cctkit.data.plan import EpochPlan

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
BATCH = 128
CONFIG = AugmentConfig()


def ours(images: torch.Tensor, turn: int) -> None:
    plan = EpochPlan.draw(seed=0, epoch=turn, num_images=len(images), batch_size=BATCH, image_size=(32, 32), config=CONFIG)
    labels = torch.zeros(len(images), dtype=torch.int64)
    chunk = augment(images, plan=plan, config=CONFIG)
    for start in range(0, len(images), BATCH):
        stop = start + BATCH
        finish(chunk[start:stop], labels[start:stop], plan=plan.part(start, stop), mean=MEAN, std=STD, channels_last=True)


def theirs(images: list[Image.Image]) -> None:
    transform = transforms.Compose(
        [
            transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    for start in range(0, len(images), BATCH):
        torch.stack([transform(image) for image in images[start : start + BATCH]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (CHUNK_IMAGES, 32, 32, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    pictures = [Image.fromarray(each) for each in pixels]
    seconds: dict[str, list[float]] = {"ours": [], "torchvision on PIL": []}
    ours(tensor, 0)
    for turn in range(turns):
        for name in seconds:
            start = time.perf_counter()
            if name == "ours":
                ours(tensor, turn)
            else:
                theirs(pictures)
            seconds[name].append(time.perf_counter() - start)
    speeds = {name: CHUNK_IMAGES / statistics.median(values) for name, values in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name:20} {speed:10,.0f} images/s")
    print(f"{'ratio':20} {speeds['ours'] / speeds['torchvision on PIL']:10.1f}")


if __name__ == "__main__":
    main()
