"""Dropout and drop path whose randomness comes from a generator that the caller owns.

torch's own `bernoulli_` was 29% of a CPU training step of `cct_6_3x1`; a mask needs no more than a byte an element.
"""

import numpy as np
import torch
from torch import Tensor, nn


def byte_threshold(p: float) -> int:
    """The bytes under which an element is dropped: p in 256ths, at least 1 for p > 0."""
    return max(1, round(256 * p)) if p > 0 else 0


def byte_scale(p: float) -> float:
    """What the kept elements are multiplied by, so that the expectation stays: 256 / (256 - threshold)."""
    return 256 / (256 - byte_threshold(p))


def random_bytes(shape: torch.Size | tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform random bytes on the CPU, uint8 of `shape`: numpy's SFC64, seeded by a draw from `generator`.

    torch's own Mersenne Twister takes two and a half times as long for them, which was 6% of a step of `cct_6_3x1`.
    """
    count = torch.Size(shape).numel()
    seed = torch.empty((), dtype=torch.int64).random_(generator=generator)
    if type(seed) is not Tensor:
        return torch.empty(shape, dtype=torch.uint8)
    words = np.random.SFC64(int(seed.item())).random_raw((count + 7) // 8)
    return torch.from_numpy(words.view(np.uint8)[:count]).view(shape)


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014). `generator` None: torch's default one.

    On the CPU the probability is rounded to 256ths (0.1 becomes 26/256) and the mask costs a byte an element.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p)
        kept = random_bytes(x.shape, self.generator) >= byte_threshold(self.p)
        return x * kept.to(x.dtype).mul_(byte_scale(self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DropPath(nn.Module):
    """Stochastic depth of whole samples (Huang et al. 2016): a sample's branch is dropped with probability `p`.

    Equal to `torchvision.ops.StochasticDepth(p, "row")` on the same draws; importing that costs a second.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        generator = self.generator if x.device.type == "cpu" else None
        noise = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * noise.bernoulli_(1 - self.p, generator=generator).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def use_generator(model: nn.Module, generator: torch.Generator | None) -> None:
    """Let every random layer of `model` draw from `generator` (on the CPU; elsewhere they draw from the device's default)."""
    for module in model.modules():
        if isinstance(module, (Dropout, DropPath)):
            module.generator = generator
