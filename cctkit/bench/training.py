"""The step, the batches and the inference of `cctkit train --recipe report` and `cctkit eval`, on images made here."""

from collections.abc import Iterator

import torch

from cctkit.bench.clock import peak_bytes
from cctkit.bench.images import MEAN, STD, SyntheticImages, epoch_images
from cctkit.bench.task import Task
from cctkit.config.model import ModelConfig
from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.augment import Batch
from cctkit.data.epoch.loader import CHUNK_IMAGES, ImageSource, train_batches
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.preprocess import Preprocess
from cctkit.engine.device import DevicePolicy
from cctkit.models.build import build_model
from cctkit.training import prepare
from cctkit.training.optim import make_optimizers
from cctkit.training.step import new_state, train_step


def policy_of(task: Task) -> DevicePolicy:
    """The device policy that training takes here; the CPU's where it would take MPS, which is not measured."""
    config = task.config()
    policy = prepare.policy_of(config)
    return prepare.policy_of(config.replace(device="cpu")) if policy.device == "mps" else policy


def epoch_batches(
    images: ImageSource,
    config: TrainConfig,
    *,
    epoch: int,
    num_images: int,
    preprocess: Preprocess,
    device: str,
    channels_last: bool = True,
    chunk_images: int = CHUNK_IMAGES,
) -> Iterator[Batch]:
    """The batches of an epoch over the first `num_images` images, as training draws, augments and normalizes them."""
    plan = EpochPlan.draw(
        seed=config.seed,
        epoch=epoch,
        num_images=num_images,
        batch_size=config.batch_size,
        image_size=preprocess.stored_size,
        config=config.augment,
    )
    return train_batches(
        images, plan=plan, preprocess=preprocess, device=device, channels_last=channels_last, chunk_images=chunk_images
    )


class Training:
    """A model in training, and a batch of noise on its device."""

    def __init__(self, architecture: ModelConfig, config: TrainConfig, policy: DevicePolicy, *, batch_size: int) -> None:
        self.config, self.policy, self.size = config, policy, architecture.image_size
        model = policy.prepare(build_model(architecture, seed=0)).train()
        self.state = new_state(model, make_optimizers(model, config), ema=None, policy=policy)
        images = torch.randn(batch_size, 3, *self.size, device=policy.device)
        self.batch = Batch(
            images=images.contiguous(memory_format=torch.channels_last) if policy.channels_last else images,
            labels=torch.randint(0, architecture.num_classes, (batch_size,), device=policy.device),
        )

    def train(self, batch: Batch) -> None:
        """One update."""
        train_step(self.state, batch, config=self.config, policy=self.policy, lr_factor=1.0)


def training_peak_bytes(architecture: ModelConfig, config: TrainConfig, policy: DevicePolicy, *, batch_size: int) -> int:
    """Peak memory of building the model and of two training steps."""

    def steps() -> None:
        training = Training(architecture, config, policy, batch_size=batch_size)
        for _ in range(2):
            training.train(training.batch)

    return peak_bytes(steps, policy.device)


class TaskTraining(Training):
    """The training and inference of a task, as `Side`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.architecture(), task.config(), policy_of(task), batch_size=task.batch_size)
        self.task = task
        self._data: SyntheticImages | None = None
        self._epoch = 0

    def infer(self, batches: int) -> None:
        """Forward passes of the ready batch."""
        model = self.state.model
        with self.policy.evaluating(model):
            for _ in range(batches):
                model(self.batch.images)

    def batches(self, number: int) -> Iterator[Batch]:
        """`number` batches, epoch after epoch."""
        batch_size = self.task.batch_size
        images = epoch_images(self.size, batch_size=batch_size, device=self.policy.device)
        if self._data is None:
            self._data = SyntheticImages(images, self.size, num_classes=self.task.num_classes)
        while number > 0:
            part = min(images, number * batch_size)
            yield from epoch_batches(
                self._data,
                self.config,
                epoch=self._epoch,
                num_images=part,
                preprocess=Preprocess(stored_size=self.size, mean=MEAN, std=STD),
                device=self.policy.device,
                channels_last=self.policy.channels_last,
            )
            number -= part // batch_size
            self._epoch += 1
