"""Fine-tuning against training from scratch: `python -m benchmarks.finetune --dataset FOLDER`.

Trains a small timm ViT on most classes of a folder of images; `cctkit train --init` fine-tunes its weights on the other
classes. The runs differ only in how they begin: from scratch, from timm's weights, and from those with a frozen backbone or
(--layer-decay) layer-wise learning-rate decay. FOLDER holds `train/CLASS/*` and `test/CLASS/*`, such as the images of
CIFAR-100. Needs timm.

Prints the validation accuracy by epoch, writes `finetune.json` and `finetune.png` into --output. Fails if the features are not
timm's, the images were not normalized as the weights expect, or fine-tuning is not better than training from scratch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cctkit.bench.training import epoch_batches
from cctkit.catalog.models import named_config
from cctkit.catalog.pretrained import IMAGENET_MEAN, IMAGENET_STD
from cctkit.config.settings import AugmentConfig, DataConfig, TrainConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.preprocess import Preprocess
from cctkit.data.splits import Dataset, Split
from cctkit.engine.device import DevicePolicy, choose_policy
from cctkit.models.build import build_model
from cctkit.models.convert import convert
from cctkit.plots.frame import COLOURS, label, new_figure, save_figure, style
from cctkit.runs.runfiles import read_metrics

SIDE = 32  # pixels
GEOMETRY = {"patch_size": 4, "num_layers": 6, "embed_dim": 128, "num_heads": 4, "mlp_ratio": 2.0}
TEST_IMAGES = 10  # per class: `train` needs some, nothing here depends on them
CLOSE = 1e-5
IMAGENET = Preprocess(stored_size=(SIDE, SIDE), mean=IMAGENET_MEAN, std=IMAGENET_STD)
PLAIN_RECIPE = ("--recipe", "report", "--auto-augment", "none", "--attention-dropout", "0", "--drop-path", "0")


def runs_of(weights: Path, layer_decay: float | None) -> dict[str, list[str]]:
    """Name of a run -> its options."""
    init = ["--init", str(weights)]
    runs = {"from scratch": [], "fine-tuned": init, "frozen backbone": [*init, "--freeze", "backbone"]}
    if layer_decay is not None:
        runs["layer decay"] = [*init, "--layer-decay", str(layer_decay)]
    return runs


def link_classes(source: Path, target: Path, classes: Sequence[str], images: int) -> Path:
    """A folder `target` with links to the first `images` training images and a few test images of each of `classes`."""
    for side, number in (("train", images), ("test", TEST_IMAGES)):
        for name in classes:
            (target / side / name).mkdir(parents=True)
            for path in sorted((source / side / name).iterdir())[:number]:
                (target / side / name / path.name).symlink_to(path)
    return target


def pretrain(dataset: Dataset, policy: DevicePolicy, args: argparse.Namespace) -> VisionTransformer:
    """timm's ViT, trained on `dataset` with AdamW and a cosine schedule, on images normalized as timm's weights expect."""
    torch.manual_seed(args.seed)
    model = VisionTransformer(
        img_size=SIDE,
        patch_size=int(GEOMETRY["patch_size"]),
        depth=int(GEOMETRY["num_layers"]),
        embed_dim=int(GEOMETRY["embed_dim"]),
        num_heads=int(GEOMETRY["num_heads"]),
        mlp_ratio=GEOMETRY["mlp_ratio"],
        num_classes=len(dataset.class_names),
    )
    model = model.to(policy.device).train()
    config = TrainConfig(seed=args.seed, batch_size=args.batch_size, augment=AugmentConfig(auto_augment="none"))
    steps = args.pretrain_epochs * -(-len(dataset.train) // args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=args.lr, total_steps=steps, pct_start=0.1)
    for epoch in range(args.pretrain_epochs):
        start, losses = time.perf_counter(), []
        for batch in epoch_batches(
            dataset.train,
            config,
            epoch=epoch,
            num_images=len(dataset.train),
            preprocess=IMAGENET,
            device=policy.device,
        ):
            with policy.autocast():
                logits = model(batch.images)
            loss = torch.nn.functional.cross_entropy(logits.float(), batch.labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        seconds = time.perf_counter() - start
        say(f"  timm's ViT, epoch {epoch + 1}/{args.pretrain_epochs}: loss {torch.stack(losses).mean():.3f}, {seconds:.0f} s")
    return model.eval().cpu()


def images_of(split: Split, number: int) -> Tensor:
    """The first images (n, 3, H, W) of a split, normalized as the pretrained weights expect."""
    positions = torch.arange(min(number, len(split))).numpy()
    return IMAGENET.normalize(split.take(positions))


@torch.inference_mode()
def feature_difference(theirs: VisionTransformer, weights: Path, images: Tensor) -> float:
    """The largest difference between timm's features (n, N, D) and ours from its file."""
    config = named_config("vit", num_classes=theirs.num_classes, image_size=SIDE, **GEOMETRY)
    ours = build_model(config, seed=0).eval()
    ours.load_state_dict(convert(load_file(weights), config=config, expected=ours.state_dict(), where=str(weights)).tensors)
    return float((ours.forward_features(images) - theirs.forward_features(images)).abs().max())


def train(name: str, beginning: Sequence[str], folder: Path, place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One run of `cctkit train` in its own process: the figures it printed and wrote."""
    run = place / name.replace(" ", "-")
    sizes = [f"--{key.replace('_', '-')}={value:g}" for key, value in GEOMETRY.items()]
    command = ["train", "--dataset", str(folder), "--model", "vit", "--image-size", str(SIDE), *sizes, *PLAIN_RECIPE]
    command += ["--epochs", str(args.epochs), "--batch-size", str(args.batch_size), "--lr", str(args.lr)]
    command += ["--val-fraction", str(args.val_fraction), "--seed", str(args.seed), *beginning]
    command += [] if args.threads is None else ["--threads", str(args.threads)]
    say(f"cctkit {' '.join(command)}")
    done = subprocess.run(
        [sys.executable, "-m", "cctkit", *command, "--output", str(run), "--json", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    records = read_metrics(run / "metrics.jsonl")
    init = json.loads((run / "env.json").read_text())["init"]
    return {
        "trained_params": json.loads(done.stdout)["trained_params"],
        "val_top1_percent": [record["val_top1_percent"] for record in records],
        "val_loss": [record["val_loss"] for record in records],
        "train_seconds": [record["train_seconds"] for record in records],
        "normalised": None if init is None else [init["mean"], init["std"]],
    }


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> None:
    """Plot validation accuracy and loss by epoch, one line per run."""
    with style():
        figure, (top1, loss) = new_figure(columns=2, width=11)
        for (name, row), colour in zip(rows.items(), COLOURS, strict=False):
            for axes, key in ((top1, "val_top1_percent"), (loss, "val_loss")):
                axes.plot(range(1, len(row[key]) + 1), row[key], color=colour, marker="o", markersize=4, label=name)
        label(top1, f"Validation top-1: {title}", "epoch", "%")
        label(loss, "Validation loss", "epoch", "nats per image")
        top1.legend(loc="best")
        save_figure(figure, path)


def faults(result: Mapping[str, Any]) -> list[str]:
    """The checks that failed."""
    runs = result["runs"]
    last = {name: row["val_top1_percent"][-1] for name, row in runs.items()}
    wrong = []
    if not result["feature_difference"] <= CLOSE:
        wrong.append(f"the features differ from timm's by {result['feature_difference']:.1e}, expected at most {CLOSE}")
    if any(row["normalised"] not in (None, [list(IMAGENET_MEAN), list(IMAGENET_STD)]) for row in runs.values()):
        wrong.append("the images were not normalized as the weights expect")
    if not last["fine-tuned"] > last["from scratch"]:
        wrong.append(f"fine-tuning is not better: {last['fine-tuned']:.2f}% against {last['from scratch']:.2f}% from scratch")
    return wrong


def table(result: Mapping[str, Any]) -> str:
    lines = [f"{'run':18} {'trained':>9}  {'s/epoch':>7}  validation top-1 by epoch, %"]
    for name, row in result["runs"].items():
        seconds = sum(row["train_seconds"]) / len(row["train_seconds"])
        curve = " ".join(f"{value:5.1f}" for value in row["val_top1_percent"])
        lines.append(f"{name:18} {row['trained_params']:>9,}  {seconds:>7.1f}  {curve}")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def compare(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Pretrain, convert the weights, train each run."""
    source = args.dataset.resolve()
    names = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    new = names[:: max(1, len(names) // args.classes)][: args.classes]
    known = [name for name in names if name not in new]
    policy = choose_policy(threads=args.threads)
    dataset = load_dataset(
        DataConfig(dataset=str(link_classes(source, place / "known", known, args.pretrain_images)), image_size=(SIDE, SIDE))
    )
    say(f"{len(known)} classes, {len(dataset.train):,} images; then {len(new)} others of {args.images} images")
    theirs = pretrain(dataset, policy, args)
    weights = place / "timm_vit.safetensors"
    save_file(theirs.state_dict(), weights)
    assert dataset.test is not None
    folder = link_classes(source, place / "new", new, args.images)
    difference = feature_difference(theirs, weights, images_of(dataset.test, 64))
    say(f"largest difference between timm's features and ours: {difference:.1e}")
    runs = {name: train(name, beginning, folder, place, args) for name, beginning in runs_of(weights, args.layer_decay).items()}
    settings = {key: value for key, value in vars(args).items() if key not in {"dataset", "output", "json"}}
    return {"schema_version": 1, "settings": settings, "feature_difference": difference, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="a folder with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for finetune.json and finetune.png")
    parser.add_argument("--classes", type=int, default=20, help="classes to fine-tune on")
    parser.add_argument("--pretrain-images", type=int, default=200, help="per class to pretrain on")
    parser.add_argument("--pretrain-epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=250, help="per class to fine-tune on, validation included")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--val-fraction", type=float, default=0.2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--layer-decay", type=float, help="add a run with this layer-wise learning-rate decay, such as 0.75")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        result = compare(args, Path(place))
    (args.output / "finetune.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(result["runs"], args.output / "finetune.png", f"{args.classes} new classes")
    print(json.dumps(result, indent=2) if args.json else table(result))
    say(f"{time.perf_counter() - start:.0f} s in total")
    if wrong := faults(result):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
