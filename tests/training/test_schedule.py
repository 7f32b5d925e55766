"""The learning rate's curve, against itself written out, the report's lengths and torch's schedulers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from cctkit.config.settings import TrainConfig
from cctkit.training.schedule import Schedule, lr_factor, schedule_of, steps_per_epoch


def curve(schedule: Schedule) -> list[float]:
    return [lr_factor(step, schedule) for step in range(schedule.total_steps)]


def test_the_curve_is_this() -> None:
    # Two steps of warm-up, then half a cosine in eighths: (1 + cos(k pi / 8)) / 2 for k = 0 to 7.
    expected = [0.5, 1.0, 1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]
    assert curve(Schedule(total_steps=10, warmup_steps=2)) == pytest.approx(expected, abs=5e-7)


def test_the_curve_with_a_floor_and_a_cooldown_is_this() -> None:
    # A cosine in quarters from 1 to 0.2: 0.2 + 0.8 (1 + cos(k pi / 4)) / 2; then three steps at 0.2.
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.882843, 0.6, 0.317157, 0.2, 0.2, 0.2]
    schedule = Schedule(total_steps=11, warmup_steps=4, cooldown_steps=3, min_factor=0.2)
    assert curve(schedule) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(("total", "warmup"), [(50, 5), (391, 39), (1000, 100), (20, 19), (7, 2)])
def test_the_curve_is_that_of_torchs_schedulers_in_a_row(total: int, warmup: int) -> None:
    """`LinearLR` from 1 / W reaches 1 after W - 1 steps; `CosineAnnealingLR` then goes to 0 over T - W."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3.0)
    linear = LinearLR(optimizer, start_factor=1 / warmup, end_factor=1.0, total_iters=warmup - 1)
    cosine = CosineAnnealingLR(optimizer, T_max=total - warmup)
    scheduler = SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = [3.0 * factor for factor in curve(Schedule(total_steps=total, warmup_steps=warmup))]
    assert ours == pytest.approx(rates, abs=1e-12)


def test_without_warmup_the_curve_is_torchs_cosine_from_its_first_step() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1)
    rates = []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert curve(Schedule(total_steps=30, warmup_steps=0, min_factor=0.1)) == pytest.approx(rates, abs=1e-12)


# 50,000 images in batches of 128: 390 full ones and one of 80.
@pytest.mark.parametrize(
    ("images", "batch", "steps"),
    [(50_000, 128, 391), (50_000, 125, 400), (128, 128, 1), (129, 128, 2), (1, 128, 1), (1437, 128, 12)],
)
def test_the_last_partial_batch_is_a_step(images: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(images, batch) == steps


def test_the_reports_run_has_its_lengths() -> None:
    schedule = schedule_of(TrainConfig(), steps_per_epoch(50_000, 128))
    assert schedule == Schedule(total_steps=78_200, warmup_steps=7_820)
    assert lr_factor(0, schedule) == pytest.approx(1 / 7820)
    assert lr_factor(7_818, schedule) < 1
    assert lr_factor(7_819, schedule) == 1
    assert lr_factor(7_820, schedule) == 1
    assert lr_factor(7_820 + 35_190, schedule) == pytest.approx(0.5)  # half of the cosine's 70,380 steps
    assert 0 < lr_factor(78_199, schedule) < 1e-8


def test_the_published_300_epoch_recipe_has_its_lengths() -> None:
    # reference: 10 epochs of warm-up, 10 of cool-down at 1e-5 of 6e-4.
    config = TrainConfig.from_flat({"epochs": 300, "lr": 6e-4, "min_lr": 1e-5, "warmup_epochs": 10, "cooldown_epochs": 10})
    schedule = schedule_of(config, 391)
    assert schedule == Schedule(total_steps=117_300, warmup_steps=3_910, cooldown_steps=3_910, min_factor=1e-5 / 6e-4)
    assert 6e-4 * lr_factor(117_300 - 3_910, schedule) == pytest.approx(1e-5)
    assert 6e-4 * lr_factor(117_299, schedule) == pytest.approx(1e-5)
    assert 6e-4 * lr_factor(117_300 - 3_911, schedule) > 1e-5


@pytest.mark.parametrize(
    ("values", "warmup"),
    [
        ({"warmup_fraction": 0.0}, 0),
        ({"warmup_epochs": 0}, 0),
        ({"warmup_fraction": 0.5, "warmup_epochs": 1}, 100),  # epochs, where given, in place of the fraction
        ({"warmup_epochs": 0.5}, 50),
        ({"warmup_epochs": 10}, 1000),  # the whole run
    ],
)
def test_a_warmup_is_a_share_of_the_steps_or_epochs(values: dict[str, float], warmup: int) -> None:
    assert schedule_of(TrainConfig.from_flat({"epochs": 10, **values}), 100).warmup_steps == warmup


def test_a_run_of_one_step_learns_at_the_peak() -> None:
    schedule = schedule_of(TrainConfig(epochs=1), 1)
    assert curve(schedule) == [1.0]


SCHEDULES = st.integers(1, 300).flatmap(
    lambda total: st.builds(
        Schedule,
        total_steps=st.just(total),
        warmup_steps=st.integers(0, total),
        cooldown_steps=st.integers(0, total),
        min_factor=st.floats(0, 1),
    )
)


@given(SCHEDULES)
@hypothesis_settings(max_examples=60, derandomize=True, deadline=None)
def test_every_schedule_climbs_to_its_peak_and_only_falls_from_there(schedule: Schedule) -> None:
    factors = curve(schedule)
    rise, fall = factors[: schedule.warmup_steps], factors[schedule.warmup_steps :]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)
    if rise:
        assert rise[-1] == 1.0
        assert rise[0] == pytest.approx(1 / len(rise))
    if schedule.warmup_steps + schedule.cooldown_steps < schedule.total_steps:
        assert fall[0] == 1.0  # the base rate is reached, with and without a warm-up
    assert all(
        factor == schedule.min_factor for factor in fall[len(fall) - schedule.cooldown_steps :] if schedule.cooldown_steps
    )


def test_after_the_end_the_rate_stays_at_the_floor() -> None:
    schedule = Schedule(total_steps=10, warmup_steps=1, min_factor=0.25)
    assert [lr_factor(step, schedule) for step in (10, 11, 1000)] == [0.25, 0.25, 0.25]


def test_the_factor_is_a_function_of_the_step_alone() -> None:
    schedule = Schedule(total_steps=100, warmup_steps=10)
    forward = curve(schedule)
    assert [lr_factor(step, schedule) for step in reversed(range(100))] == forward[::-1]
    assert all(math.isfinite(factor) for factor in forward)
