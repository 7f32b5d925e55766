"""Random images in memory, so that no data set is needed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cctkit.config.size import Size

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # CIFAR-100's
_MOST, _MOST_BYTES = 4096, 32 * 2**20


class SyntheticImages:
    """Smooth random images, uint8 (n, 3, height, width), read as `data.dataset.Split` is."""

    def __init__(self, number: int, size: Size, *, num_classes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randint(0, 256, (number, 3, 8, 8), generator=generator).float()
        self.images = interpolate(coarse, size=size, mode="bilinear").to(torch.uint8)
        self.labels: np.ndarray[Any, np.dtype[np.int64]] = np.arange(number, dtype=np.int64) % num_classes

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray[Any, np.dtype[np.int64]], /) -> Tensor:
        """The images at these positions, a copy."""
        return self.images.index_select(0, torch.from_numpy(positions))


def epoch_images(size: Size, *, batch_size: int, device: str) -> int:
    """The images of an epoch in whole batches: a few thousand, fewer if they are large, more for a GPU."""
    factor = 1 if device == "cpu" else 16
    most = factor * min(_MOST, _MOST_BYTES // (3 * size[0] * size[1]))
    return max(1, most // batch_size) * batch_size
