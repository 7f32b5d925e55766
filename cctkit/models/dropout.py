"""Dropout and drop path that draw from a generator of the caller.

torch's `bernoulli_` was 29% of a CPU training step of `cct_6_3x1`; a mask needs one byte per element.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from cctkit.config.model import ModelConfig


def byte_threshold(p: float) -> int:
    """Elements with a random byte below this are dropped: 256 p rounded, between 1 and 255 for p > 0."""
    return min(255, max(1, round(256 * p))) if p > 0 else 0


def byte_scale(p: float) -> float:
    """The factor of the kept elements that preserves the expectation: 256 / (256 - threshold)."""
    return 256 / (256 - byte_threshold(p))


def has_data(tensor: Tensor) -> bool:
    """Whether the tensor holds values: the subclasses used to predict memory have none."""
    return type(tensor) is Tensor


def random_bytes(shape: torch.Size | tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform random bytes on the CPU, uint8 of `shape`: numpy's SFC64, seeded by a draw from `generator`.

    torch's own Mersenne Twister takes two and a half times as long for them, which was 6% of a step of `cct_6_3x1`.
    """
    count = torch.Size(shape).numel()
    seed = torch.empty((), dtype=torch.int64).random_(generator=generator)
    if not has_data(seed):
        return torch.empty(shape, dtype=torch.uint8)
    words = np.random.SFC64(int(seed.item())).random_raw((count + 7) // 8)
    return torch.from_numpy(words.view(np.uint8)[:count]).view(shape)


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014). `generator` None: torch's default one.

    On the CPU the probability is rounded to a multiple of 1/256 (0.1 becomes 26/256), at most 255/256, and the mask takes
    one byte per element.
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
        return (x * kept.to(x.dtype)).mul_(byte_scale(self.p))  # a mask of bf16 would hold the scale rounded

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DropPath(nn.Module):
    """Stochastic depth of whole samples (Huang et al. 2016): a sample's branch is dropped with probability `p`.

    Equal to `torchvision.ops.StochasticDepth(p, "row")` on the same draws; importing that costs a second.
    skips: whether `add_branch` skips the computation of dropped samples, for which the host reads the draw.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.skips = False
        self.generator: torch.Generator | None = None

    @property
    def drops(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.drops:
            return x
        draw = self._draw(x)
        return (x * draw).mul_(1 / (1 - self.p)) if _is_short(x) else x * draw.div_(1 - self.p)

    def kept(self, x: Tensor) -> Tensor:
        """Indices of the samples of x that are kept, int64; without data their expected number."""
        draw = self._draw(x)
        return draw.flatten().nonzero().flatten() if has_data(draw) else torch.arange(math.ceil(len(x) * (1 - self.p)))

    def _draw(self, x: Tensor) -> Tensor:
        """1 for each sample of x (B, ...) that is kept, 0 for the others: (B, 1, ...)."""
        generator = self.generator if x.device.type == "cpu" else None
        draw = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return draw.bernoulli_(1 - self.p, generator=generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def drop_path_rates(config: ModelConfig) -> list[float]:
    """Drop path's rate per block: from 0 at the first block linearly to `config.drop_path` at the last."""
    last = max(config.num_layers - 1, 1)
    return [config.drop_path * i / last for i in range(config.num_layers)]


def add_branch(x: Tensor, branch: Callable[[Tensor], Tensor], drop_path: nn.Module) -> Tensor:
    """x + drop_path(branch(x)), (B, ...) -> (B, ...), for a branch that treats samples independently.

    If drop path skips, the branch gets only the kept samples; if there are none, the gradients of its weights are zero.
    """
    if not (isinstance(drop_path, DropPath) and drop_path.skips and drop_path.drops):
        return x + drop_path(branch(x))  # type: ignore[no-any-return]
    kept, scale = drop_path.kept(x), 1 / (1 - drop_path.p)
    all_kept = len(kept) == len(x)
    out = branch(x if all_kept else x.index_select(0, kept))
    if _is_short(x):
        out, scale = out * scale, 1.0
    return torch.add(x, out, alpha=scale) if all_kept else x.index_add(0, kept, out.to(x.dtype), alpha=scale)


def _is_short(x: Tensor) -> bool:
    """Whether x is bf16 or fp16, in which a scale in a tensor would be rounded (1.1111 to 1.1094). A Python number is not."""
    return x.dtype.itemsize < torch.float32.itemsize


def skip_dropped(model: nn.Module, skips: bool) -> None:
    """Set whether drop path skips the computation of dropped samples; draws and results are the same."""
    for module in model.modules():
        if isinstance(module, DropPath):
            module.skips = skips


def use_generator(model: nn.Module, generator: torch.Generator | None) -> None:
    """Let all random layers of `model` draw from `generator` on the CPU; other devices use their default generator."""
    for module in model.modules():
        if isinstance(module, (Dropout, DropPath)):
            module.generator = generator
