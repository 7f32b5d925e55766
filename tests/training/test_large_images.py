"""The models for 224 x 224 pixels train with the loop of the others."""

from pathlib import Path

import pytest
import torch

from cctkit.catalog.models import model_config
from cctkit.config.settings import DataConfig, TrainConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.epoch.loader import train_batches
from cctkit.data.epoch.plan import EpochPlan
from cctkit.engine.device import DevicePolicy
from cctkit.models.build import build_model
from cctkit.training.optim import make_optimizers
from cctkit.training.step import EpochSums, new_state, train_step
from tests.conftest import write_images


@pytest.mark.parametrize("name", ["cct_7_7x2_224", "cct_14_7x2_224", "vit_s_16"])
def test_a_model_for_224_pixels_learns_from_a_step(name: str, tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 2}, size=(240, 230))
    config = TrainConfig.from_flat({"model": name, "lr": 1e-4, "attention_dropout": 0.0, "drop_path": 0.0})
    dataset = load_dataset(DataConfig(dataset=str(tmp_path), image_size=model_config(config.model).image_size))
    assert dataset.stored_size == (224, 224)
    policy = DevicePolicy(device="cpu", precision="float32", attention="fused", attention_in_evaluation="fused", threads=1)
    model = policy.prepare(
        build_model(model_config(config.model, num_classes=2, image_size=dataset.image_size), seed=0)
    ).train()
    state = new_state(model, make_optimizers(model, config), ema=None, policy=policy)
    plan = EpochPlan.draw(seed=0, epoch=0, num_images=2, batch_size=2, image_size=(224, 224), config=config.augment)
    (batch,) = train_batches(dataset.train, plan=plan, preprocess=dataset.preprocess, device="cpu")
    assert batch.images.shape == (2, 3, 224, 224)
    train_step(state, batch, config=config, policy=policy, lr_factor=1.0)
    before = EpochSums(*state.sums).smoothed_loss.item()
    train_step(state, batch, config=config, policy=policy, lr_factor=0.0)
    assert not state.diverged
    assert EpochSums(*state.sums).smoothed_loss.item() - before < before
    assert torch.isfinite(state.sums).all()
