"""Augmentation as pure functions of images and a plan: a chunk of uint8 images at a time, then batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cctkit.config import AugmentConfig
from cctkit.data.plan import EpochPlan
from cctkit.data.policies import apply, operations_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What a step takes: images float (B, 3, H, W), normalised; labels int64 (B,); where images are mixed, the partner's
    label and the own label's share, float32 (B,)."""

    images: Tensor
    labels: Tensor
    partner_labels: Tensor | None = None
    weight: Tensor | None = None


def augment(images: Tensor, *, plan: EpochPlan, config: AugmentConfig) -> Tensor:
    """Policy, crop and flip of uint8 images (n, 3, H, W), position by position as `plan` (of n positions) says.

    A resized crop comes before the policy, as in its recipe's source; a padded one after it, as in the report. The
    images are grouped by what is done to them, so that each operation is one call.
    """
    size = (images.shape[2], images.shape[3])
    if config.crop == "resized":
        images = _resized_crop(images, plan)
    if config.auto_augment != "none":
        images = images.clone()
        for slot in (0, 1):
            for operation, rows in operations_of(plan, slot, size).items():
                index = torch.from_numpy(rows).to(images.device)
                images[index] = apply(images[index], operation)
    if config.crop == "pad" and config.crop_padding > 0:
        images = _padded_crop(images, plan, config.crop_padding)
    if plan.flip is not None:
        index = torch.from_numpy(np.flatnonzero(plan.flip)).to(images.device)
        images[index] = images[index].flip(-1)
    return images


def _padded_crop(images: Tensor, plan: EpochPlan, padding: int) -> Tensor:
    """The plan's window of each image with a black border: one copy of windows from a strided view."""
    assert plan.box is not None
    height, width = images.shape[2:]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, 3, 2p + 1, 2p + 1, H, W), a view
    out = torch.empty_like(images)
    corners = plan.box[:, 0].astype(np.int64) * (2 * padding + 1) + plan.box[:, 1]
    for corner, rows in _groups(corners):
        index = torch.from_numpy(rows).to(images.device)
        top, left = divmod(corner, 2 * padding + 1)
        out[index] = windows[:, :, top, left][index]
    return out


def _resized_crop(images: Tensor, plan: EpochPlan) -> Tensor:
    """The plan's box of each image, brought back to the image's size: one bicubic, antialiased call for each size of box."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    assert plan.box is not None
    out = torch.empty_like(images)
    boxes = plan.box.astype(np.int64)
    for code, rows in _groups(boxes[:, 2] * 2**16 + boxes[:, 3]):
        height, width = divmod(code, 2**16)
        parts = [
            images[i, :, top : top + height, left : left + width] for i, (top, left) in zip(rows, boxes[rows, :2], strict=True)
        ]
        small = torch.stack(parts)
        index = torch.from_numpy(rows).to(images.device)
        out[index] = F.resize(small, list(images.shape[2:]), InterpolationMode.BICUBIC, antialias=True)
    return out


def _groups(codes: np.ndarray[Any, Any]) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """Each code with the rows that have it."""
    order = np.argsort(codes, kind="stable")
    values, starts = np.unique(codes[order], return_index=True)
    return list(zip(values.tolist(), np.split(order, starts[1:]), strict=True)) if len(codes) else []


def finish(
    images: Tensor, labels: Tensor, *, plan: EpochPlan, mean: Sequence[float], std: Sequence[float], channels_last: bool
) -> Batch:
    """One batch from its augmented uint8 images: normalised, then erased and mixed where the plan says so."""
    out = normalise(images, mean=mean, std=std, channels_last=channels_last)
    if plan.erase_box is not None:
        _erase(out, plan)
    if plan.partner is None or plan.weight is None or plan.mix_box is None:
        return Batch(images=out, labels=labels)
    partner = torch.from_numpy(plan.partner - plan.start).to(out.device)
    weight = torch.from_numpy(plan.weight).to(out.device)
    others = out[partner]
    top, left, height, width = plan.mix_box[0].tolist()
    if height:
        out[:, :, top : top + height, left : left + width] = others[:, :, top : top + height, left : left + width]
    elif plan.weight[0] < 1:
        out = out.mul_(float(plan.weight[0])).add_(others, alpha=1 - float(plan.weight[0]))
    return Batch(images=out, labels=labels, partner_labels=labels[partner], weight=weight)


def normalise(images: Tensor, *, mean: Sequence[float], std: Sequence[float], channels_last: bool) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 `(x / 255 - mean) / std`, by channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(1, 3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(1, 3, 1, 1)
    out = images.float().mul_(scale).sub_(shift)
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


def _erase(images: Tensor, plan: EpochPlan) -> None:
    """Normal noise in the plan's boxes, in place; an image's noise depends on its own seed alone."""
    assert plan.erase_box is not None
    assert plan.noise_seed is not None
    for i in np.flatnonzero(plan.erase_box[:, 2]):
        top, left, height, width = plan.erase_box[i].tolist()
        generator = torch.Generator().manual_seed(int(plan.noise_seed[i]))
        noise = torch.randn(3, height, width, generator=generator)
        images[i, :, top : top + height, left : left + width] = noise.to(images.device)
