"""Train a model of your own with cctkit's trainer: any `nn.Module` from images (B, 3, H, W) to logits (B, K).

    python examples/own_model.py runs/own

The trainer provides data, augmentation, optimizer, schedule, metrics and checkpoints. After Ctrl-C, run the same command again
to resume exactly. The weights are saved as a plain state dict: `cctkit eval` and `cctkit.load` only build the models of cctkit.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cctkit import TrainConfig
from cctkit.api import SilentReporter
from cctkit.data.dataset import load_dataset
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError
from cctkit.models.dropout import Dropout
from cctkit.runs.rundir import RunDir
from cctkit.training.job import Job
from cctkit.training.loop import evaluate, fit
from cctkit.training.prepare import policy_of

SETTINGS = {
    "dataset": "digits",
    "epochs": 10,
    "batch_size": 64,
    "lr": 2e-3,
    "auto_augment": "none",
    "crop_padding": 2,
    "flip": False,
}


class SmallConvNet(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.dropout = Dropout(0.1)  # with nn.Dropout a resumed run would draw other masks
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, K)
        return self.head(self.dropout(self.features(images).mean(dim=(2, 3))))


class PrintingReporter(SilentReporter):
    def epoch(self, record: Any, epochs: int) -> None:
        print(
            f"epoch {record['epoch']}/{epochs}  train loss {record['train_loss']:.3f}  {record['images_per_s']:,.0f} images/s"
        )


def main(path: Path, **changes: Any) -> float:
    """Train, or resume the run in `path`. Returns the test top-1 in percent."""
    config = TrainConfig.from_flat(SETTINGS | changes)
    dataset = load_dataset(config.data, progress=lambda *_: None, notify=print)
    torch.manual_seed(config.seed)  # for the initial weights; all other random draws are seeded by `config.seed`
    is_begun = (path / "config.json").exists()
    with StopRequest() as stop, RunDir.open(path) if is_begun else RunDir.create(path) as run:
        run.write_json(run.config, {"values": config.flat(), "origins": {}, "recipe": None})
        job = Job(
            config=config,
            dataset=dataset,
            policy=policy_of(config),
            run=run,
            reporter=PrintingReporter(),
            stop=stop,
            model=SmallConvNet(len(dataset.class_names)),
        )
        state, _ = fit(job, resume=is_begun)
        assert dataset.test is not None
        metrics = evaluate(job, state.result, dataset.test, "test").metrics
        weights = {name: tensor.contiguous() for name, tensor in state.result.state_dict().items()}
        save_file(weights, run.path / "own_model.safetensors")
    print(f"top-1 {metrics.top1_percent:.2f}% on {metrics.num_images} test images")
    return metrics.top1_percent


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except StoppedError:
        sys.exit("stopped, everything is saved; run the same command again to resume")
