"""Augmentation as pure functions of images and a plan: first per chunk of uint8 images, then per batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cctkit.config.settings import AugmentConfig
from cctkit.config.size import Size
from cctkit.data.epoch.plan import Array, EpochPlan
from cctkit.data.epoch.policies import Interpolation, apply, groups_by, operations_of, operators
from cctkit.data.preprocess import Preprocess
from cctkit.data.transfer import to_device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """The input of a training step.

    images: float (B, 3, H, W), normalized.
    labels: int64 (B,).
    partner_labels: int64 (B,), labels of the images mixed in; None without mixup and cutmix.
    lam: float32 (B,), weight of `labels`; 1 - lam is that of `partner_labels`.
    rank_weight: weight of this rank's mean in the global mean; 1 for a single rank.
    """

    images: Tensor
    labels: Tensor
    partner_labels: Tensor | None = None
    lam: Tensor | None = None
    rank_weight: float = 1.0


def augment(images: Tensor, *, plan: EpochPlan, mean: Sequence[int] | None = None) -> Tensor:
    """Apply policy, crop and flip to uint8 images (n, 3, H, W), as drawn in `plan` (n positions).

    A resized crop comes before the policy, as in timm/data/transforms_factory.py; a padded crop with a black border comes
    after it, as in the report. On a CPU each image is bit for bit what it would be alone; on CUDA it may differ by a level.

    mean: per channel, 0 to 255; RandAugment's fill color (timm's `img_mean`) unless `aa_fill` is set. AutoAugment fills black.
    """
    config, size = plan.config, plan.size or (images.shape[2], images.shape[3])
    if plan.box is not None and config.crop == "resized":
        images = _resized_crop(images, plan.box, size)
    if config.auto_augment != "none":
        operate = partial(apply, fill=_fill_of(config, mean), interpolation=_interpolation_of(config))
        for slot in (0, 1):
            groups = operations_of(plan, slot, size)
            images = _in_groups(images, [(rows, partial(operate, operation=item)) for item, rows in groups])
    if plan.box is not None and config.crop == "pad" and config.crop_padding > 0:
        images = _padded_crop(images, plan.box, config.crop_padding)
    if plan.flip is not None:
        images = _in_groups(images, [(np.flatnonzero(plan.flip), partial(torch.flip, dims=[-1]))])
    return images


def _fill_of(config: AugmentConfig, mean: Sequence[int] | None) -> Sequence[int] | None:
    if config.aa_fill is not None:
        return [config.aa_fill] * 3
    return mean if config.auto_augment == "rand" else None


def _interpolation_of(config: AugmentConfig) -> Interpolation:
    """`aa_interpolation`, or nearest for AutoAugment as in torchvision, and bilinear for RandAugment (timm: or bicubic)."""
    return config.aa_interpolation or ("bilinear" if config.auto_augment == "rand" else "nearest")


def _in_groups(images: Tensor, groups: Sequence[tuple[Array, Callable[[Tensor], Tensor]]]) -> Tensor:
    """Apply each group's function to its rows, one call per group; other rows stay as they are.

    Rows are sorted by group and back with `index_select`, which copies whole images; indexing copies byte by byte.
    """
    rest = np.ones(len(images), dtype=bool)
    for rows, _ in groups:
        rest[rows] = False
    order = np.concatenate([*(rows for rows, _ in groups), np.flatnonzero(rest)])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    parts = _select(images, order).split([*(len(rows) for rows, _ in groups), int(rest.sum())])  # type: ignore[no-untyped-call]
    changed = [function(part) for (_, function), part in zip(groups, parts, strict=False)]
    return _select(torch.cat([*changed, parts[-1]]), back)


def _select(tensor: Tensor, rows: Array) -> Tensor:
    return tensor.index_select(0, to_device(torch.from_numpy(rows), tensor.device))


def _windows(images: Tensor, rows: Array, top: Array, left: Array, *, height: int, width: int) -> Tensor:
    """Crop each of `rows` at its own position to one size: (len(rows), C, height, width), one copy per line."""
    channels, full_height, full_width = images.shape[1:]
    lines = images.contiguous().as_strided((images.numel() - width + 1, width), (1, 1))  # every run of `width` bytes
    first = ((rows * channels)[:, None] + np.arange(channels)) * full_height + top[:, None]  # (n, C)
    starts = (first[..., None] + np.arange(height)) * full_width + left[:, None, None]  # (n, C, height)
    return _select(lines, starts.reshape(-1)).view(len(rows), channels, height, width)


def _padded_crop(images: Tensor, boxes: Array, padding: int) -> Tensor:
    """Pad each image with black and crop its box (n, 4)."""
    top, left, _, _ = boxes.astype(np.int64).T
    padded = torch.nn.functional.pad(images, [padding] * 4)
    height, width = images.shape[2:]
    return _windows(padded, np.arange(len(images)), top, left, height=height, width=width)


def _resized_crop(images: Tensor, boxes: Array, size: Size) -> Tensor:
    """Crop the box (n, 4) of each image and resize it to `size`: one bicubic, antialiased call per crop size."""
    top, left, heights, widths = boxes.astype(np.int64).T
    done, order = [], []
    for code, rows in groups_by(heights * 2**16 + widths):
        height, width = divmod(code, 2**16)
        crops = _windows(images, rows, top[rows], left[rows], height=height, width=width)
        done.append(operators().resize(crops, list(size), interpolation="bicubic", antialias=True))
        order.append(rows)
    return _select(torch.cat(done), np.argsort(np.concatenate(order)))


def normalize_and_mix(
    images: Tensor,
    labels: Tensor,
    *,
    plan: EpochPlan,
    preprocess: Preprocess,
    channels_last: bool,
    rank_weight: float = 1.0,
) -> Batch:
    """Make a batch from augmented uint8 images: normalize, mix, erase, upsample.

    Erasing comes after mixing, as in timm's loader: `FastCollateMixup`, then `PrefetchLoader` with `RandomErasing`
    (timm/data/loader.py).

    Upsampling adds no information, so it comes last: at 32 instead of 224 pixels the other steps cost 1/49, and a crop by 4
    pixels means 4 stored pixels. It commutes with mixup; cutmix's edges are blurred by a pixel.
    """
    out = preprocess.normalize(images)
    partner = lam = None
    if plan.lam is not None and plan.mix_box is not None:
        partner = np.arange(len(plan))[::-1].copy()  # of the whole batch and of any rank's share: see `share_of_batch`
        _mix(out, partner, lam=float(plan.lam[0]), box=plan.mix_box[0])
        lam = to_device(torch.from_numpy(plan.lam), out.device)
    if plan.erase_box is not None and plan.noise_seed is not None:
        _erase(out, plan.erase_box, plan.noise_seed)
    return Batch(
        images=preprocess.upsample(out, channels_last=channels_last),
        labels=labels,
        partner_labels=None if partner is None else _select(labels, partner),
        lam=lam,
        rank_weight=rank_weight,
    )


def _mix(images: Tensor, partner: Array, *, lam: float, box: Array) -> None:
    """Apply mixup or cutmix with the partners, in place, as `torchvision.transforms.v2.MixUp` and `CutMix` compute it."""
    top, left, height, width = box.tolist()
    if height:
        window = images[:, :, top : top + height, left : left + width]
        window.copy_(_select(window, partner))
    elif lam < 1:
        others = _select(images, partner).mul_(1 - lam)
        images.mul_(lam).add_(others)


def _erase(images: Tensor, boxes: Array, seeds: Array) -> None:
    """Fill the boxes (B, 4) with normal noise, in place; the noise of an image depends only on its own seed."""
    generator = torch.Generator()
    for i in np.flatnonzero(boxes[:, 2]):
        top, left, height, width = boxes[i].tolist()
        generator.manual_seed(int(seeds[i]))
        noise = torch.randn(3, height, width, generator=generator)
        images[i, :, top : top + height, left : left + width] = to_device(noise, images.device)
