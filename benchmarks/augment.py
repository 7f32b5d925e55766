"""Speed of augmentation against torchvision on PIL images: `python -m benchmarks.augment`.

The report's augmentation (AutoAugment's CIFAR-10 policy, crop with padding 4, flip, normalization) of 32 x 32 images, from
uint8 images in memory to float32 batches, on one thread. `torchvision.transforms` and the code of `cctkit train` take turns;
the result is the median in images per second of CPU time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.speed.plain import Pictures
from cctkit.bench.images import MEAN, STD, SyntheticImages
from cctkit.bench.training import epoch_batches
from cctkit.config.settings import AugmentConfig, TrainConfig
from cctkit.data.epoch.loader import CHUNK_IMAGES
from cctkit.data.preprocess import Preprocess
from cctkit.engine.allocator import keep_memory

SIZE = (32, 32)
BATCH_SIZE = 128


def image_by_image(images: SyntheticImages, number: int) -> Callable[[int], int]:
    """A turn over the first `number` images with torchvision."""
    pictures = Pictures(images, SIZE)

    def turn(_epoch: int) -> int:
        for first in range(0, number, BATCH_SIZE):
            torch.stack([pictures[i][0] for i in range(first, min(first + BATCH_SIZE, number))])
        return number

    return turn


def batched(images: SyntheticImages, augment: AugmentConfig, chunk_images: int) -> Callable[[int], int]:
    """A turn over all images: the draws, the augmentation and the batches of an epoch."""
    config = TrainConfig(batch_size=BATCH_SIZE, augment=augment)
    preprocess = Preprocess(stored_size=SIZE, mean=MEAN, std=STD)

    def turn(epoch: int) -> int:
        batches = epoch_batches(
            images,
            config,
            epoch=epoch,
            num_images=len(images),
            preprocess=preprocess,
            device="cpu",
            chunk_images=chunk_images,
        )
        return sum(len(batch.labels) for batch in batches)

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5 * CHUNK_IMAGES, help="of a batched turn")
    parser.add_argument("--pil-images", type=int, default=1024, help="of a turn image by image")
    parser.add_argument("--chunk-images", type=int, default=CHUNK_IMAGES)
    parser.add_argument("--auto-augment", choices=("cifar10", "rand", "none"), default="cifar10", help="of ours")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    images = SyntheticImages(args.images, SIZE, num_classes=100)
    config = AugmentConfig(auto_augment=args.auto_augment, aa_fill=128 if args.auto_augment == "cifar10" else None)
    ways = {"pil": image_by_image(images, args.pil_images), "ours": batched(images, config, args.chunk_images)}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(args.turns + 1):
        for name, turn in ways.items():
            start = time.process_time()
            number = turn(epoch)
            speeds[name].append(number / (time.process_time() - start))
    pil, ours = (statistics.median(speeds[name][1:]) for name in ("pil", "ours"))  # the first turn warms up
    if args.json:
        print(json.dumps({"schema_version": 1, "pil": pil, "ours": ours, "ratio": ours / pil, "turns": speeds}))
    else:
        print(f"PIL image by image {pil:8.0f}  batched {ours:8.0f} images/s  ratio {ours / pil:.1f}")


if __name__ == "__main__":
    main()
