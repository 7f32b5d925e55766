"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass

from cctkit.config.settings import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Lengths of warm-up, decay and cool-down of a run, in steps."""

    total_steps: int
    warmup_steps: int
    cooldown_steps: int = 0
    min_factor: float = 0.0


def lr_factor(step: int, schedule: Schedule) -> float:
    """The learning rate of step `step` (from 0) as a fraction of its peak, in [0, 1].

    Linear warm-up, `(t + 1) / W` for `t < W`, so that the peak is reached by the last warm-up step; then a cosine,
    `0.5 (1 + cos(pi (t - W) / (T - W)))` (Loshchilov and Hutter 2017, SGDR, equation 5), down to `min_factor`.
    """
    warmup, floor = schedule.warmup_steps, schedule.min_factor
    if step < warmup:
        return (step + 1) / warmup
    decay_steps = schedule.total_steps - warmup - schedule.cooldown_steps
    progress = min((step - warmup) / decay_steps, 1.0) if decay_steps > 0 else 1.0
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Steps per epoch, including the last, partial batch: 391 for 50,000 images in batches of 128."""
    return math.ceil(num_images / batch_size)


def schedule_of(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """The schedule of a run; `TrainConfig` has checked that warm-up and cool-down fit into it."""
    total = config.epochs * steps_per_epoch
    warmup = total * config.warmup_fraction if config.warmup_epochs is None else config.warmup_epochs * steps_per_epoch
    return Schedule(
        total_steps=total,
        warmup_steps=round(warmup),
        cooldown_steps=round(config.cooldown_epochs * steps_per_epoch),
        min_factor=config.min_lr / config.lr,
    )
