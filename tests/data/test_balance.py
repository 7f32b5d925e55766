"""Class weights are scikit-learn's; balanced sampling draws classes in the promised proportions, from seed and epoch alone."""

import numpy as np
import pytest

from cctkit.config.settings import AugmentConfig
from cctkit.data.epoch.balance import balanced_order, class_weights
from cctkit.data.epoch.plan import EpochPlan

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [900, 90, 10]))


def plan_of(*, seed: int = 0, epoch: int = 0, power: float | None = 1.0) -> EpochPlan:
    return EpochPlan.draw(
        seed=seed,
        epoch=epoch,
        num_images=len(LABELS),
        batch_size=32,
        image_size=(8, 8),
        config=AugmentConfig(mixup=0.5, random_erase=0.25),
        labels=LABELS,
        balanced_sampling=power,
    )


def test_class_weights_of_power_1_are_scikit_learns_balanced_ones() -> None:
    # compute_class_weight("balanced"): n / (K * count).
    found = class_weights(np.repeat([0, 1, 2], [6, 3, 1]), classes=3, power=1)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_class_weights_of_another_power_have_its_ratios_and_a_mean_of_1_over_the_images() -> None:
    found = class_weights(np.repeat([0, 1], [9, 1]), classes=2, power=0.5)
    # 1/3 and 1, times 10 / (9 / 3 + 1) = 2.5.
    assert found.tolist() == pytest.approx([2.5 / 3, 2.5])
    assert (9 * found[0] + found[1]) / 10 == pytest.approx(1)


def test_a_class_without_images_has_no_weight() -> None:
    assert class_weights(np.array([0, 0, 2, 2]), classes=4, power=1).tolist() == [1, 0, 1, 0]


def test_equal_classes_have_the_weight_1() -> None:
    assert class_weights(np.arange(30) % 5, classes=5, power=0.7).tolist() == pytest.approx([1] * 5)


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (1.0, [333.33, 333.33, 333.33]),
        (0.5, [703.4, 222.4, 74.1]),  # 30, 9.487 and 3.162, of 42.649
        (1e-9, [900, 90, 10]),
    ],
)
def test_classes_come_in_proportion_to_a_power_of_their_size(power: float, expected: list[float]) -> None:
    orders = [balanced_order(LABELS, power=power, generator=np.random.default_rng(i)) for i in range(300)]
    counts = np.array([np.bincount(LABELS[order], minlength=3) for order in orders])
    assert (counts.sum(axis=1) == 1000).all()
    assert np.abs(counts - expected).max() < 1.1
    assert counts.mean(axis=0) == pytest.approx(expected, abs=0.15)


def test_every_image_of_a_class_comes_equally_often_or_once_more() -> None:
    times = np.bincount(plan_of().order, minlength=1000)
    for label, low in ((0, 0), (1, 3), (2, 33)):
        assert set(times[label == LABELS].tolist()) == {low, low + 1}


def test_over_the_epochs_every_image_of_a_large_class_is_drawn() -> None:
    times = sum(np.bincount(plan_of(epoch=epoch).order, minlength=1000) for epoch in range(60))
    of_large = np.asarray(times)[LABELS == 0]
    # 60 draws of 333 from 900: 22.2 each, standard deviation 3.7.
    assert of_large.min() > 0
    assert of_large.mean() == pytest.approx(60 * 333.3 / 900, abs=0.1)
    assert of_large.std() == pytest.approx((60 * 0.37 * 0.63) ** 0.5, rel=0.15)


def test_the_classes_are_spread_over_the_epoch() -> None:
    labels = LABELS[plan_of().order]
    for label in range(3):
        first_half = (labels[:500] == label).sum()
        assert abs(first_half - 167) < 5 * (1000 / 4 * 2 / 9) ** 0.5 + 20


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    order = plan_of(seed=1, epoch=2).order
    assert order.dtype == np.int32
    assert np.array_equal(order, plan_of(seed=1, epoch=2).order)
    assert not np.array_equal(order, plan_of(seed=1, epoch=3).order)
    assert not np.array_equal(order, plan_of(seed=2, epoch=2).order)


def test_balanced_sampling_changes_no_other_draw_and_off_it_changes_nothing() -> None:
    off, on = plan_of(power=None), plan_of()
    without = EpochPlan.draw(seed=0, epoch=0, num_images=1000, batch_size=32, image_size=(8, 8), config=off.config)
    assert np.array_equal(off.order, without.order)
    assert sorted(off.order) == list(range(1000))
    for name in ("policy", "coins", "signs", "box", "flip", "erase_box", "noise_seed", "lam", "mix_box"):
        assert np.array_equal(getattr(off, name), getattr(on, name)), name
