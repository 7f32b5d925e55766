"""The learning rate's shape, written out."""

import pytest
import torch

from cctkit.config import TrainConfig
from cctkit.schedule import Schedule, lr_factor, schedule_of, steps_per_epoch


def test_a_curve_of_ten_steps_with_two_of_warm_up() -> None:
    schedule = Schedule(total_steps=10, warmup_steps=2)
    curve = [lr_factor(step, schedule) for step in range(10)]
    expected = [0.5, 1.0, 1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]
    assert curve == pytest.approx(expected, abs=1e-6)


def test_the_cosine_is_torchs() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.1)
    schedule = Schedule(total_steps=50, warmup_steps=0, min_factor=0.1)
    for step in range(50):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr_factor(step, schedule))
        optimizer.step()
        scheduler.step()


def test_a_floor_and_a_cool_down() -> None:
    schedule = Schedule(total_steps=12, warmup_steps=1, cooldown_steps=3, min_factor=0.1)
    curve = [lr_factor(step, schedule) for step in range(12)]
    assert curve[9:] == pytest.approx([0.1, 0.1, 0.1])
    assert min(curve[1:9]) > 0.1


def test_the_last_partial_batch_is_a_step() -> None:
    assert steps_per_epoch(50_000, 128) == 391
    assert steps_per_epoch(128, 128) == 1


def test_warm_up_is_a_tenth_of_all_steps_unless_given_in_epochs() -> None:
    config = TrainConfig(epochs=50)
    assert schedule_of(config, 391).warmup_steps == 1955
    assert schedule_of(config.replace(warmup_epochs=10), 391).warmup_steps == 3910
    assert schedule_of(config, 391).total_steps == 19_550


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    assert lr_factor(0, schedule_of(TrainConfig(epochs=1), 1)) > 0
