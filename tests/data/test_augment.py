"""Augmenting a batch equals the reference implementation on each image."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from cctkit.config.settings import AugmentConfig
from cctkit.data.epoch.augment import augment, normalize_and_mix
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.epoch.policies import CIFAR10_POLICY
from cctkit.data.preprocess import Preprocess

NORMALIZE = Preprocess(stored_size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
SCALE = Preprocess(stored_size=(32, 32))
ONLY_POLICY = AugmentConfig(crop="none", flip=False)


def random_images(number: int, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Smooth random images, some of them flat or of few values, which equalize and autocontrast treat apart."""
    small = torch.randint(0, 256, (number, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(small.float(), size=size, mode="bilinear").to(torch.uint8)
    images[0] = 77
    images[1] = images[1] // 128 * 200
    return images


def reference(image: torch.Tensor, policy: int, coins: tuple[float, float], negative: bool, **how: Any) -> torch.Tensor:
    """torchvision's own AutoAugment with the arguments `how` on one image, its draws replaced by these."""
    transform = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, **how)
    draws = iter([])

    def rand(*_: Any, **__: Any) -> torch.Tensor:
        return torch.tensor(next(draws))

    sequence = []
    for slot, (name, probability, _) in enumerate(CIFAR10_POLICY[policy]):
        sequence.append(coins[slot])
        if coins[slot] <= probability and transform._AUGMENTATION_SPACE[name][1]:
            sequence.append(0.25 if negative else 0.75)
    draws = iter(sequence)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        patch.setattr(torch, "randint", lambda *_, **__: torch.tensor(policy))
        return transform(image)


def test_the_policy_table_equals_torchvisions() -> None:
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    assert [[(name, share, level or 0) for name, share, level in row] for row in theirs] == [
        list(row) for row in CIFAR10_POLICY
    ]


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("policy", range(25))
def test_each_sub_policy_equals_torchvisions_bit_for_bit(policy: int, negative: bool, size: tuple[int, int]) -> None:
    images = random_images(8, size)
    coins = np.tile(np.array([[0.0, 0.0], [0.0, 0.999], [0.999, 0.0], [0.15, 0.25]], dtype=np.float32), (2, 1))
    plan = EpochPlan(
        order=np.arange(8),
        config=ONLY_POLICY,
        batch_size=8,
        policy=np.full(8, policy, dtype=np.uint8),
        coins=coins,
        signs=np.full((8, 2), negative),
    )
    before = images.clone()
    out = augment(images, plan=plan)
    for i in range(8):
        expected = reference(images[i], policy, (float(coins[i, 0]), float(coins[i, 1])), negative)
        assert torch.equal(out[i], expected), (policy, i)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "how", [{"fill": 128}, {"fill": 255, "interpolation": "bilinear"}, {"interpolation": "bilinear"}], ids=str
)
@pytest.mark.parametrize("policy", [1, 3, 5, 10, 12, 21, 24])  # those that shear, rotate or translate
def test_fill_and_interpolation_equal_torchvisions_bit_for_bit(policy: int, how: dict[str, Any]) -> None:
    images, coins = random_images(4, (24, 40)), np.zeros((4, 2), dtype=np.float32)
    for negative in (False, True):
        plan = EpochPlan(
            order=np.arange(4),
            config=AugmentConfig(crop="none", flip=False, aa_fill=how.get("fill"), aa_interpolation=how.get("interpolation")),
            batch_size=4,
            policy=np.full(4, policy, dtype=np.uint8),
            coins=coins,
            signs=np.full((4, 2), negative),
        )
        out = augment(images, plan=plan, mean=[10, 20, 30])
        for i in range(4):
            assert torch.equal(out[i], reference(images[i], policy, (0.0, 0.0), negative, **how)), (i, negative)


def draw(number: int, config: AugmentConfig, batch_size: int = 16) -> EpochPlan:
    return EpochPlan.draw(seed=3, epoch=2, num_images=number, batch_size=batch_size, image_size=(32, 32), config=config)


def test_a_padded_crop_and_flip_equal_the_single_image_ones() -> None:
    config = AugmentConfig(auto_augment="none")
    images, plan = random_images(64), draw(64, config)
    out = augment(images, plan=plan)
    for i in range(64):
        top, left = plan.box[i, :2].tolist()
        expected = F.crop(F.pad(images[i], [4, 4, 4, 4]), top, left, 32, 32)
        assert torch.equal(out[i], F.horizontal_flip(expected) if plan.flip[i] else expected)


def test_a_resized_crop_equals_torchvisions_on_the_image_alone() -> None:
    config = AugmentConfig(auto_augment="none", crop="resized", flip=False)
    images, plan = random_images(64), draw(64, config)
    out = augment(images, plan=plan)
    for i in range(64):
        top, left, height, width = plan.box[i].tolist()
        expected = F.resized_crop(images[i], top, left, height, width, [32, 32], InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(out[i], expected)


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(auto_augment="rand", crop="resized")])
def test_the_result_does_not_depend_on_the_chunk_size(config: AugmentConfig) -> None:
    images, plan = random_images(96), draw(96, config)
    whole = augment(images, plan=plan)
    for size in (1, 7, 32):
        parts = [augment(images[i : i + size], plan=plan.at(np.arange(i, min(i + size, 96)))) for i in range(0, 96, size)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    "config", [AugmentConfig(), AugmentConfig(aa_fill=128), AugmentConfig(auto_augment="rand", aa_interpolation="nearest")]
)
def test_every_tensor_is_made_on_the_device_of_the_images(config: AugmentConfig) -> None:
    images, plan = torch.empty(96, 3, 32, 32, dtype=torch.uint8, device="meta"), draw(96, config)
    assert augment(images, plan=plan, mean=[1, 2, 3]).device.type == "meta"


def test_images_without_the_policy_are_only_cropped_and_flipped() -> None:
    images = random_images(200)
    configs = AugmentConfig(aa_prob=0.4), AugmentConfig(), AugmentConfig(auto_augment="none")
    some, every, plain = (augment(images, plan=draw(200, config)) for config in configs)
    like_plain = (some == plain).flatten(1).all(dim=1)
    assert torch.equal(some[~like_plain], every[~like_plain])
    assert 0.6 <= like_plain.float().mean() < 0.75  # some sub-policies change nothing


def test_normalization_equals_torchvisions() -> None:
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    images = random_images(4)
    expected = F.normalize(F.to_dtype(images, torch.float32, scale=True), mean, std)
    for channels_last in (False, True):
        out = Preprocess(stored_size=(32, 32), mean=mean, std=std).to_input(images, channels_last=channels_last)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixup_and_cutmix_equal_torchvisions_on_the_same_draws(kind: str) -> None:
    config = AugmentConfig(auto_augment="none", crop="none", flip=False, **{kind: 1.0})
    images, labels = random_images(2), torch.tensor([3, 5])  # in a batch of two, torchvision's partner is ours
    plan = draw(2, config, batch_size=2)
    top, left, height, width = plan.mix_box[0].tolist()
    assert (height * width > 0) == (kind == "cutmix")
    batch = normalize_and_mix(images, labels, plan=plan, preprocess=NORMALIZE, channels_last=True)
    plain = NORMALIZE.normalize(images)
    share = float(plan.lam[0])
    box = (left, top, left + width, top + height)
    params = {"labels": labels, "batch_size": 2, "lam": share, "lam_adjusted": share, "box": box}
    theirs = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](num_classes=10)
    assert torch.equal(batch.images, theirs.transform(plain, params))
    targets = torch.nn.functional.one_hot(batch.labels, 10) * batch.lam[:, None]
    targets += torch.nn.functional.one_hot(batch.partner_labels, 10) * (1 - batch.lam[:, None])
    torch.testing.assert_close(targets, theirs.transform(labels, params))


def test_the_partner_of_an_image_is_at_the_other_end_of_the_batch() -> None:
    config = AugmentConfig(auto_augment="none", crop="none", flip=False, mixup=1.0)
    images, labels, plan = random_images(24), torch.arange(24), draw(24, config)
    part = plan.at(np.arange(16, 24))  # the last batch of an epoch, in a chunk of its own
    batch = normalize_and_mix(images[16:], labels[16:], plan=part, preprocess=SCALE, channels_last=False)
    assert batch.partner_labels.tolist() == list(range(23, 15, -1))
    share, scaled = float(part.lam[0]), images[16:] / 255
    torch.testing.assert_close(batch.images, scaled * share + scaled.flip(0) * (1 - share))


def test_erasing_depends_on_the_image_alone_and_is_normal_noise() -> None:
    config = AugmentConfig(auto_augment="none", crop="none", flip=False, random_erase=1.0)
    images, plan = torch.zeros(64, 3, 32, 32, dtype=torch.uint8), draw(64, config)
    labels = torch.zeros(64, dtype=torch.int64)
    whole = normalize_and_mix(images, labels, plan=plan, preprocess=SCALE, channels_last=False).images
    part = normalize_and_mix(images[32:], labels[32:], plan=plan.at(np.arange(32, 64)), preprocess=SCALE, channels_last=False)
    assert torch.equal(part.images, whole[32:])
    noise = whole[whole != 0]
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_erasing_comes_after_mixing(kind: str) -> None:
    """timm's order: `FastCollateMixup` mixes, then `PrefetchLoader` erases, so that no partner's noise shows through."""
    mix: Any = {"auto_augment": "none", "crop": "none", "flip": False, kind: 1.0}
    images, labels = random_images(16), torch.arange(16)
    how: Any = {"preprocess": NORMALIZE, "channels_last": False}
    both = draw(16, AugmentConfig(**mix, random_erase=1.0))
    erased = draw(16, AugmentConfig(**mix | {kind: 0.0}, random_erase=1.0))
    assert both.lam[0] < 1
    mixed = normalize_and_mix(images, labels, plan=draw(16, AugmentConfig(**mix)), **how).images
    noise = normalize_and_mix(images, labels, plan=erased, **how).images
    out = normalize_and_mix(images, labels, plan=both, **how).images
    for i, (top, left, height, width) in enumerate(both.erase_box.tolist()):
        box = (i, slice(None), slice(top, top + height), slice(left, left + width))
        mixed[box] = noise[box]
    assert torch.equal(out, mixed)
