"""What three processes find out: `torchrun --nproc-per-node 3 -m tests.training.ranks OUT.json`.

The tests and `benchmarks/ranks.py` hold it against what is promised. The first one, two and three of them form a job of
their own in turn, and do the same training steps and evaluation.
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from cctkit.catalog.models import named_config
from cctkit.config.settings import TrainConfig
from cctkit.data.epoch.balance import class_weights
from cctkit.data.epoch.loader import share_of_batch, train_batches
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.preprocess import Preprocess
from cctkit.engine.device import DevicePolicy
from cctkit.engine.distributed import DistContext, connected
from cctkit.engine.parallel import to_device_or_shard
from cctkit.errors import DivergedError, ElsewhereError, UserError
from cctkit.evaluation.calibration import fit_temperature
from cctkit.evaluation.evaluate import logits_of
from cctkit.models.attention import ATTENTION_IMPLS
from cctkit.models.build import build_model
from cctkit.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cctkit.training.collective import checkpoint_for_all
from cctkit.training.optim import make_optimizers
from cctkit.training.shards import full_tensor, to_local
from cctkit.training.state import History, pack, unpack
from cctkit.training.step import EpochSums, TrainState, new_state, train_step

POLICY = DevicePolicy(device="cpu", precision="float32", attention="chunked", attention_in_evaluation="chunked", threads=1)
PREPROCESS = Preprocess(stored_size=(8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
IMAGES, BATCH, STEPS = 27, 13, 10  # the last batch of an epoch is one image: fewer than the ranks
OPTIONS = {"mixup": 0.5, "cutmix": 1.0, "random_erase": 0.25, "accumulate": 2, "clip_grad": 1.0}
AVERAGED = {"ema": 0.5, "layer_decay": 0.8}
FOLDER = Path(sys.argv[-1]).parent
TCT = "tct_1_1x2"  # applies each block twice
QUIET = {"attention_dropout": 0.0, "drop_path": 0.0, "dropout": 0.0}


class Images:
    """A split held in memory."""

    def __init__(self, number: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (number, 3, 8, 8), dtype=torch.uint8, generator=generator)
        self.labels = np.minimum(np.arange(number) % 9, 4)  # more than half of them of one class

    def __len__(self) -> int:
        return len(self.images)

    def take(self, positions: Any) -> torch.Tensor:
        return self.images[torch.from_numpy(positions)]


def state_of(
    config: TrainConfig, context: DistContext, dtype: torch.dtype, policy: DevicePolicy = POLICY, *, model: str = "cct_2_3x2"
) -> TrainState:
    rates = {name: getattr(config.model, name) for name in QUIET}
    built = build_model(named_config(model, num_classes=5, image_size=8, **rates), seed=0)
    ready, ema = to_device_or_shard(built.to(dtype).train(), config=config, policy=policy, context=context)
    return new_state(ready, make_optimizers(ready, config), ema=ema, policy=policy, context=context)


def train(
    context: DistContext, dtype: torch.dtype, policy: DevicePolicy = POLICY, *, model: str = "cct_2_3x2", **options: Any
) -> dict[str, Any]:
    """Ten steps: the losses of all images of each, and what every position of every batch had for an image.

    With `shard` the state is then kept as a checkpoint of all ranks.
    """
    config = TrainConfig.from_flat({**OPTIONS, **QUIET, "batch_size": BATCH, **options})
    state, split = state_of(config, context, dtype, policy, model=model), Images(IMAGES)
    losses, seen, before = [], {}, state.sums.clone()
    power = config.class_weights
    weights = None if power is None else torch.from_numpy(class_weights(split.labels, classes=5, power=power))
    for step in range(STEPS):
        epoch, at = divmod(step, -(-IMAGES // BATCH))
        if at == 0:
            plan = EpochPlan.draw(
                seed=config.seed,
                epoch=epoch,
                num_images=IMAGES,
                batch_size=BATCH,
                image_size=(8, 8),
                config=config.augment,
                labels=split.labels,
                balanced_sampling=config.balanced_sampling,
            )
            stream = train_batches(
                split, plan=plan, preprocess=PREPROCESS, device="cpu", rank=context.rank, ranks=context.world_size
            )
        batch = next(stream)
        rows, _ = share_of_batch(at * BATCH, min((at + 1) * BATCH, IMAGES), rank=context.rank, ranks=context.world_size)
        for row, image, label in zip(rows, batch.images, batch.labels, strict=True):
            if batch.rank_weight:
                seen[f"{epoch} {row}"] = hashlib.sha256(image.contiguous().numpy().tobytes() + bytes([label])).hexdigest()
        batch.images.data = batch.images.to(dtype)
        train_step(state, batch, config=config, policy=policy, lr_factor=1.0, class_weights=weights)
        added = state.sums - before
        losses.append((added / EpochSums(*added).images).tolist()[:3])
        before = state.sums.clone()
    assert not state.diverged
    if config.shard:
        tensors, values = pack(state, History())
        save_checkpoint(FOLDER / f"{context.world_size}", step=STEPS, tensors=tensors, state=values, context=context)
    weights = b"".join(full_tensor(weight.detach()).numpy().tobytes() for weight in state.model.parameters())
    digest, seed = hashlib.sha256(weights).hexdigest(), state.generator.initial_seed()
    found = {"losses": losses, "seen": seen, "weights": digest, "seed_of_masks": seed}
    if config.ema is None:
        return found
    norms = [float(full_tensor(weight.detach()).norm()) for weight in state.result.parameters()]
    held = sum(to_local(each).numel() for each in tensors_of(state))
    return found | {"norms": norms, "held": held, "state": digest_of(state)}


def ways(context: DistContext) -> dict[str, list[str]]:
    """The weights after training twice on each attention path and in each number format, with dropout that may be there."""
    found = {}
    for path, precision in itertools.product(ATTENTION_IMPLS, ("float32", "bf16")):
        policy = replace(POLICY, attention=path, precision=precision)  # type: ignore[arg-type]
        rates = {"dropout": 0.1, "drop_path": 0.3, "attention_dropout": 0.0 if path == "fused" else 0.3}
        twice = []
        for _ in range(2):
            torch.rand(1)  # torch's own generator is nobody's
            twice.append(train(context, torch.float32, policy, **rates)["weights"])
        found[f"{path} {precision}"] = twice
    return found


def digest_of(state: TrainState) -> str:
    return hashlib.sha256(b"".join(full_tensor(each).numpy().tobytes() for each in tensors_of(state))).hexdigest()


def tensors_of(state: TrainState) -> list[torch.Tensor]:
    """The weights, their average, and the optimizers' moments."""
    (optimizer,) = state.optimizers
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = [optimizer.state[weight][key] for weight in weights for key in ("step", "exp_avg", "exp_avg_sq")]
    return [each.detach() for each in (*state.model.parameters(), *state.result.parameters(), *moments)]


def resumed(context: DistContext, *, of: int, **options: Any) -> str:
    """The digest of the state that the checkpoint of so many ranks brings these to."""
    config = TrainConfig.from_flat({**QUIET, **AVERAGED, **options})
    state = state_of(config, context if config.shard else DistContext(), torch.float32)
    found = load_checkpoint(FOLDER / f"{of}", warn=print)
    assert found is not None
    unpack(found, state, steps=STEPS)
    return digest_of(state)


def evaluate(context: DistContext, total: int, *, shard: bool = False) -> str:
    """The digest of the logits, and the temperature with labels of which a fifth is wrong."""
    model = state_of(TrainConfig(shard=shard), context if shard else DistContext(), torch.float32).model
    calls: list[tuple[int, int]] = []

    def on_batch(done: int, of: int) -> None:
        calls.append((done, of))
        context.all_reduce_max(done)  # would hang, were it not called as often by all

    logits = logits_of(
        model, Images(total), preprocess=PREPROCESS, policy=POLICY, on_batch=on_batch, context=context  # type: ignore[arg-type]
    )  # fmt: skip
    assert calls[-1] == (total, total)
    labels = (logits.argmax(dim=1) + (torch.arange(total) % 5 == 0).long()) % 5
    return f"{hashlib.sha256(logits.numpy().tobytes()).hexdigest()} {fit_temperature(logits, labels)}"


def outcome(work: Callable[[], Any]) -> str:
    try:
        return str(work())
    except (UserError, ElsewhereError) as error:
        return f"{type(error).__name__} {error.exit_code} {error}"


def agree(context: DistContext) -> list[str]:
    """What each rank ends with when rank 1 has an error of the user's, then when all have one."""

    def one() -> None:
        with context.sync_errors():
            if context.rank == 1:
                raise UserError("a fault")

    def every() -> None:
        with context.sync_errors():
            raise DivergedError(f"of rank {context.rank}")

    def first() -> str:
        return context.run_on_rank0(lambda: f"by rank {context.rank}")

    return [outcome(work) for work in (one, every, first)]


def checkpoint(context: DistContext) -> str:
    """A checkpoint that only rank 0 can read, as this rank has it."""
    tensors = {"model": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}, "best": {}}
    own = Checkpoint(path=Path("somewhere"), step=3, tensors=tensors, state={"step": 3})
    found = checkpoint_for_all(context, lambda: own)
    assert found is not None
    shown = {name: {key: tensor.tolist() for key, tensor in part.items()} for name, part in found.tensors.items()}
    return json.dumps([str(found.path), found.step, shown, found.state], sort_keys=True)


def of_first(size: int, context: DistContext) -> list[Any] | None:
    """What each of the first `size` ranks finds out; None on the others."""
    group = dist.new_group(range(size))
    if context.rank >= size:
        return None
    job = DistContext(rank=context.rank, world_size=size, cpu_group=group, device_group=group)
    own = {
        "float64": train(job, torch.float64, optimizer="muon"),
        "float32": train(job, torch.float32),
        "again": train(job, torch.float32),
        "masked": train(job, torch.float32, dropout=0.1, drop_path=0.1),
        "logits": {str(total): evaluate(job, total) for total in (1, 250, 251, 700, 1001)},
        "agreed": agree(job),
        "checkpoint": checkpoint(job),
        "none": checkpoint_for_all(job, lambda: None),
        "balanced": train(job, torch.float64, balanced_sampling=0.7),
        "weighted": train(job, torch.float64, class_weights=1.0),
        "tct64": train(job, torch.float64, model=TCT, optimizer="muon"),
        "ddp64": train(job, torch.float64, **AVERAGED),
        "ddp32": train(job, torch.float32, **AVERAGED),
        "tct ddp64": train(job, torch.float64, model=TCT, **AVERAGED),
    }
    if size == 2:
        own["ways"] = ways(job)
    if size > 1:
        own |= sharded(job)
    return job.all_gather_object(own)


def sharded(context: DistContext) -> dict[str, Any]:
    """What `--shard` comes to, beside DDP; and, of two ranks and of three, their checkpoint under each number of them."""
    return {
        "sharded64": train(context, torch.float64, shard=True, **AVERAGED),
        "tct sharded64": train(context, torch.float64, model=TCT, shard=True, **AVERAGED),
        "sharded32": train(context, torch.float32, shard=True, **AVERAGED),
        "sharded32 again": train(context, torch.float32, shard=True, **AVERAGED),
        "sharded logits": {str(total): evaluate(context, total, shard=True) for total in (1, 250, 700, 1001)},
        "resumed": {
            of: [resumed(context, of=of, shard=shard) for shard in (False, True)] for of in range(2, context.world_size + 1)
        },
    }


def main() -> None:
    torch.set_num_threads(1)
    with connected() as context:
        found = {size: of_first(size, context) for size in (1, 2, 3)}
        if context.is_rank0:
            Path(sys.argv[1]).write_text(json.dumps(found))
        context.all_gather_object(None)


if __name__ == "__main__":
    main()
