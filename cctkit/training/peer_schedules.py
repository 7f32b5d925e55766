"""What other programs' learning rate schedules really do, epoch by epoch, to be laid beside ours. Nothing trains by them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """What the schedules need: peak and lowest learning rate, and whole epochs, of which they count from 0."""

    lr: float
    min_lr: float
    epochs: int
    warmup_epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSchedule:
    """A schedule that changes once an epoch. remark: what about it surprises."""

    source: str
    remark: str
    lr: Callable[[int, PeerSettings], float]


def _shi(epoch: int, s: PeerSettings) -> float:
    if epoch < s.warmup_epochs:
        return s.lr / (s.warmup_epochs - epoch)
    return s.lr * 0.5 * (1 + math.cos(math.pi * (epoch - s.warmup_epochs) / (s.epochs - s.warmup_epochs)))


_TIMM_WARMUP_LR = 1e-5


def _timm(epoch: int, s: PeerSettings) -> float:
    if epoch < s.warmup_epochs:
        return _TIMM_WARMUP_LR + epoch * (s.lr - _TIMM_WARMUP_LR) / s.warmup_epochs
    if epoch >= s.epochs:
        return s.min_lr
    return s.min_lr + 0.5 * (s.lr - s.min_lr) * (1 + math.cos(math.pi * epoch / s.epochs))


PEER_SCHEDULES: Mapping[str, PeerSchedule] = MappingProxyType(
    {
        "shi": PeerSchedule(
            source="SHI-Labs/Compact-Transformers, examples/main.py, adjust_learning_rate",
            remark="its warm-up is lr / (warmup - epoch), which is not linear: half of it comes in the last epoch",
            lr=_shi,
        ),
        "timm": PeerSchedule(
            source="huggingface/pytorch-image-models, timm/scheduler/cosine_lr.py, defaults of scheduler_factory.py",
            remark="its cosine runs since epoch 0 and is entered at the end of the warm-up, so the base rate is never reached",
            lr=_timm,
        ),
    }
)
