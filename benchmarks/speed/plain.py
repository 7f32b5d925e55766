"""The model and its training in plain torch: float32, NCHW, torch's dropout, images augmented one by one."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.data import Dataset as TorchDataset

from cctkit.bench.images import MEAN, STD, SyntheticImages, epoch_images
from cctkit.bench.task import Task
from cctkit.config.model import ModelConfig
from cctkit.config.size import Size
from cctkit.models.build import build_model, set_attention_impl
from cctkit.models.dropout import Dropout, DropPath

_WORKERS = 8

Batch = tuple[Tensor, Tensor]


def plain_model(config: ModelConfig) -> nn.Module:
    """The model with plain attention and the random layers of torch and torchvision; the same initial weights as ours."""
    from torchvision.ops import StochasticDepth

    model = build_model(config, seed=0)
    set_attention_impl(model, "plain")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.p))
            elif isinstance(child, DropPath):
                setattr(module, name, StochasticDepth(child.p, "row"))
    return model


def pipeline(size: Size) -> Any:
    """The report's augmentation of one PIL image."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=128),
            transforms.RandomCrop(size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


class Pictures(TorchDataset[tuple[Tensor, int]]):
    """PIL images in memory, augmented one by one: (3, height, width) and the label."""

    def __init__(self, images: SyntheticImages, size: Size) -> None:
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.images]
        self.labels = images.labels.tolist()
        self.transform = pipeline(size)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[i]), self.labels[i]


class PlainSide:
    """Training and inference of a task in plain torch, as `Side`."""

    def __init__(self, task: Task) -> None:
        self.task, self.config, architecture = task, task.config(), task.architecture()
        self.size = architecture.image_size
        torch.manual_seed(0)
        self.model = plain_model(architecture).to(task.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=self.config.label_smoothing)
        self.batch: Batch = (
            torch.randn(task.batch_size, 3, *self.size, device=task.device),
            torch.randint(0, task.num_classes, (task.batch_size,), device=task.device),
        )
        self._data: Pictures | None = None

    def train(self, batch: Batch) -> None:
        """One update."""
        images, labels = batch
        self.optimizer.zero_grad()
        self.criterion(self.model(images), labels).backward()
        self.optimizer.step()

    def infer(self, batches: int) -> None:
        """The logits of the ready batch, `batches` times."""
        self.model.eval()
        with torch.inference_mode():
            for _ in range(batches):
                self.model(self.batch[0])
        self.model.train()

    def batches(self, number: int) -> Iterator[Batch]:
        """`number` batches of a DataLoader, epoch after epoch. It has workers only with a GPU; on a CPU they would compete."""
        task = self.task
        images = epoch_images(self.size, batch_size=task.batch_size, device=task.device)
        if self._data is None:
            self._data = Pictures(SyntheticImages(images, self.size, num_classes=task.num_classes), self.size)
        while number > 0:
            part = min(images, number * task.batch_size)
            loader = DataLoader(
                Subset(self._data, range(part)),
                batch_size=task.batch_size,
                shuffle=True,
                num_workers=0 if task.device == "cpu" else min(_WORKERS, os.cpu_count() or 1),
                pin_memory=task.device == "cuda",
            )
            for pictures, labels in loader:
                yield pictures.to(task.device, non_blocking=True), labels.to(task.device, non_blocking=True)
            number -= part // task.batch_size
