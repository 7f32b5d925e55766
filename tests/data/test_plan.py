"""An epoch's draws are a function of the seed and the epoch, and are distributed as the papers say."""

import numpy as np
import pytest
import torch

from cctkit.config.settings import AugmentConfig
from cctkit.data.epoch import plan as plan_module
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.epoch.policies import CIFAR10_POLICY


def draw(number: int = 1000, *, seed: int = 0, epoch: int = 0, batch_size: int = 128, **config: object) -> EpochPlan:
    return EpochPlan.draw(
        seed=seed,
        epoch=epoch,
        num_images=number,
        batch_size=batch_size,
        image_size=(32, 32),
        config=AugmentConfig(**config),  # type: ignore[arg-type]
    )


def test_every_image_is_seen_once_and_every_epoch_in_another_order() -> None:
    first, second = draw(epoch=0).order, draw(epoch=1).order
    assert sorted(first) == list(range(1000))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, draw(epoch=0).order)
    assert not np.array_equal(first, draw(seed=1).order)


def test_mixup_changes_no_other_draw() -> None:
    plain, mixed = draw(), draw(mixup=0.8, random_erase=0.25)
    for name in ("order", "policy", "coins", "signs", "box", "flip"):
        assert np.array_equal(getattr(plain, name), getattr(mixed, name)), name


@pytest.mark.parametrize("policy", ["cifar10", "rand"])
def test_a_policys_fraction_leaves_the_other_images_as_they_are_and_changes_no_other_draw(policy: str) -> None:
    whole, part = draw(20_000, auto_augment=policy), draw(20_000, auto_augment=policy, aa_prob=0.3)
    applied = part.coins[:, 0] <= 1
    assert applied.mean() == pytest.approx(0.3, abs=0.02)
    assert (part.coins[~applied] > 1).all()
    assert np.array_equal(part.coins[applied], whole.coins[applied])
    for name in ("order", "policy", "operations", "levels", "signs", "box", "flip"):
        assert np.array_equal(getattr(whole, name), getattr(part, name)), name


def test_a_mixing_fraction_leaves_the_other_batches_as_they_are_and_changes_no_other_draw() -> None:
    whole, part = (draw(128 * 2000, mixup=0.8, cutmix=1.0, **some).mix for some in ({}, {"mix_prob": 0.3}))
    mixed = part.lam < 1
    assert mixed.mean() == pytest.approx(0.3, abs=0.04)
    assert (part.boxes[~mixed] == 0).all()
    assert np.array_equal(part.lam[mixed], whole.lam[mixed])
    assert np.array_equal(part.boxes[mixed], whole.boxes[mixed])


def test_sub_policies_coins_and_signs_have_their_frequencies_over_100_000_draws() -> None:
    plan = draw(100_000)
    counts = np.bincount(plan.policy, minlength=25)
    assert np.abs(counts - 4000).max() < 5 * (4000 * 24 / 25) ** 0.5
    assert abs(plan.signs.mean() - 0.5) < 5 * 0.5 / 200_000**0.5
    for policy, row in enumerate(CIFAR10_POLICY):
        of_policy = plan.coins[plan.policy == policy]
        for slot, (_, probability, _) in enumerate(row):
            share = (of_policy[:, slot] <= np.float32(probability)).mean()
            assert abs(share - probability) < 5 * (max(probability * (1 - probability), 1e-4) / len(of_policy)) ** 0.5
    assert abs(plan.flip.mean() - 0.5) < 5 * 0.5 / 100_000**0.5


def test_a_padded_crop_is_uniform_over_81_corners() -> None:
    corners = draw(81_000).box[:, :2]
    counts = np.bincount(corners[:, 0].astype(int) * 9 + corners[:, 1], minlength=81)
    assert counts.shape == (81,)
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5


def test_resized_crops_lie_inside_and_are_distributed_as_torchvisions() -> None:
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.empty(3, 32, 32)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.8, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(2000)])
    boxes = draw(20_000, crop="resized").box.astype(int)
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()
    assert height.mean() == pytest.approx(theirs[:, 0].mean(), abs=0.2)
    assert width.mean() == pytest.approx(theirs[:, 1].mean(), abs=0.2)
    assert height.std() == pytest.approx(theirs[:, 0].std(), abs=0.15)
    assert (height * width).mean() == pytest.approx(theirs.prod(axis=1).mean(), abs=6)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [((96, 32), (26, 0, 43, 32)), ((32, 96), (0, 26, 32, 43))],  # 32 / (3 / 4) = 42.7, 32 x 4 / 3 = 42.7
)
def test_a_resized_crop_without_a_fitting_try_is_torchvisions_center_crop(
    image_size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    from torchvision.transforms import RandomResizedCrop

    plan = EpochPlan.draw(
        seed=0, epoch=0, num_images=9, batch_size=3, image_size=image_size, config=AugmentConfig(crop="resized")
    )
    assert np.array_equal(plan.box, np.tile(expected, (9, 1)))
    assert RandomResizedCrop.get_params(torch.empty(3, *image_size), [0.8, 1.0], [3 / 4, 4 / 3]) == expected


def test_rand_augment_draws_magnitudes_around_nine_in_tenths() -> None:
    levels = draw(50_000, auto_augment="rand").levels
    assert levels.mean() == pytest.approx(90, abs=0.5)
    assert levels.std() == pytest.approx(5, abs=0.3)
    assert levels.max() == 100
    operations = np.bincount(draw(50_000, auto_augment="rand").operations.ravel(), minlength=15)
    assert np.abs(operations - 100_000 / 15).max() < 5 * (100_000 / 15) ** 0.5


def test_mixing_draws_one_weight_per_batch() -> None:
    plan = draw(300, mixup=0.8, cutmix=1.0)
    assert len(set(plan.lam[:128].tolist())) == 1
    assert ((plan.lam >= 0) & (plan.lam <= 1)).all()


def test_cutmix_weighs_by_the_clipped_area() -> None:
    plan = draw(128 * 500, cutmix=1.0)
    area = plan.mix_box[:, 2].astype(int) * plan.mix_box[:, 3]
    np.testing.assert_allclose(plan.lam, 1 - area / 1024, rtol=1e-6)
    # A box of side r around a uniform centre keeps r - r^2 / 4 of a side; over r^2 uniform that is 0.321 of the area.
    assert plan.lam[::128].mean() == pytest.approx(1 - 0.321, abs=0.05)


def test_erasing_takes_its_share_of_the_images_and_of_their_area() -> None:
    boxes = draw(20_000, random_erase=0.25).erase_box.astype(int)
    erased = boxes[boxes[:, 2] > 0]
    assert len(erased) / 20_000 == pytest.approx(0.25, abs=0.02)
    assert (erased[:, 0] + erased[:, 2] <= 32).all()
    assert (erased[:, 1] + erased[:, 3] <= 32).all()
    config = AugmentConfig(auto_augment="none", crop="none", flip=False, random_erase=1.0)
    plan = EpochPlan.draw(seed=0, epoch=0, num_images=20_000, batch_size=128, image_size=(2000, 2000), config=config)
    height, width = plan.erase_box[:, 2:].astype(int).T
    area, aspect = height * width / 2000**2, height / width
    # torchvision.transforms.RandomErasing: scale=(0.02, 0.33), ratio=(0.3, 3.3); timm's max_area is 1 / 3.
    assert (area.min(), area.max()) == (pytest.approx(0.02, rel=0.01), pytest.approx(1 / 3, rel=0.01))
    assert (aspect.min(), aspect.max()) == (pytest.approx(0.3, rel=0.01), pytest.approx(3.3, rel=0.01))


def test_mix_switch_prob_is_the_fraction_of_cutmix() -> None:
    boxes = draw(128 * 2000, mixup=0.8, cutmix=1.0, mix_switch_prob=0.2).mix.boxes
    assert (boxes[:, 2] > 0).mean() == pytest.approx(0.2, abs=0.03)  # of the boxes few are empty


def test_a_selection_has_the_draws_of_its_positions() -> None:
    plan = draw(mixup=0.8)
    part = plan.at(np.arange(256, 384))
    assert len(part) == 128
    assert np.array_equal(part.order, plan.order[256:384])
    assert np.array_equal(part.lam, plan.lam[256:384])


EVERYTHING = [
    {},
    {"auto_augment": "rand", "crop": "resized", "mixup": 0.8, "cutmix": 1.0, "random_erase": 0.25},
    {"auto_augment": "none", "crop": "none", "cutmix": 1.0, "random_erase": 0.5},
]


@pytest.mark.parametrize("config", EVERYTHING)
def test_the_draws_do_not_depend_on_how_many_are_made_at_a_time(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, object]
) -> None:
    plans = []
    for piece in (10**9, 7, 256):
        monkeypatch.setattr(plan_module, "_PIECE", piece)
        plans.append(draw(1000, **config))
    for name in (*NAMES, "lam", "mix_box"):
        first, *others = (getattr(plan, name) for plan in plans)
        assert (first is None) == all(other is None for other in others)
        assert first is None or all(other.dtype == first.dtype and np.array_equal(other, first) for other in others), name


NAMES = ("order", "policy", "operations", "levels", "coins", "signs", "box", "flip", "erase_box", "noise_seed")


def test_a_selection_of_a_selection_mixes_like_the_whole() -> None:
    plan = draw(300, mixup=0.8, cutmix=1.0)
    part = plan.at(np.arange(100, 290)).at(np.arange(28, 156))
    for name in ("lam", "mix_box"):
        assert np.array_equal(getattr(part, name), getattr(plan, name)[128:256])
