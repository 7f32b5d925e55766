"""A training step against its floor and against the same model written plainly: `python benchmarks/step.py`.

Plain (float32, NCHW, torch's dropout, the allocator as it comes) and ours are two processes that take turns, so that a
drifting machine cancels and the allocator of one is not the other's. Images a second, the median of the turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

MODELS = ("cct_2_3x2", "cct_4_3x2", "cct_6_3x2", "cct_6_3x1")
NUM_CLASSES = 100
FLOOR_ROUNDS = 5


def plain_step(name: str, batch_size: int) -> Callable[[], object]:
    """The model as one would write it down: torch's own dropout, autograd's attention, float32."""
    import torch
    from torch import nn

    from cctkit.models.build import create_model

    torch.manual_seed(0)
    model = create_model(name, num_classes=NUM_CLASSES).train()
    for module in model.modules():
        for key, child in module.named_children():
            if type(child).__name__ == "Dropout":
                setattr(module, key, nn.Dropout(child.p))
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(0, NUM_CLASSES, (batch_size,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.03)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(images), labels).backward()
        optimizer.step()

    return step


def our_step(name: str, batch_size: int) -> Callable[[], object]:
    """The step that `cctkit train --recipe report` makes, with the policy that this machine's probe chooses."""
    from cctkit.training.allocator import keep_memory

    keep_memory()
    import torch

    from cctkit.catalog.models import named_config
    from cctkit.config import TrainConfig
    from cctkit.data.augment import Batch
    from cctkit.models.build import build_model
    from cctkit.training.device import choose_policy
    from cctkit.training.optim import make_optimizers
    from cctkit.training.step import new_state, train_step

    policy = choose_policy()
    config = TrainConfig()
    model = policy.prepare(build_model(named_config(name, num_classes=NUM_CLASSES), seed=0)).train()
    state = new_state(model, make_optimizers(model, config), ema=None, policy=policy)
    images = torch.randn(batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
    batch = Batch(images=images, labels=torch.randint(0, NUM_CLASSES, (batch_size,)), partner_labels=None, weight=None)
    return lambda: train_step(state, batch, config=config, policy=policy, lr_factor=1.0)


def floor_turn(name: str, batch_size: int) -> Callable[[], float]:
    """A turn of timing the products alone; the fastest of all turns counts."""
    from cctkit.training.allocator import keep_memory

    keep_memory()
    from floor import Floor

    floor = Floor(plain_step(name, batch_size))
    return lambda: floor.seconds(FLOOR_ROUNDS)


def _work(kind: str, name: str, batch_size: int) -> None:
    """A worker: for every line on stdin, take a turn of so many steps and answer with the seconds of one."""
    if kind == "floor":
        turn = floor_turn(name, batch_size)
        for _ in sys.stdin:
            print(json.dumps(turn()), flush=True)
        return
    step = {"plain": plain_step, "ours": our_step}[kind](name, batch_size)
    step()
    step()
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(json.dumps((time.perf_counter() - start) / int(line)), flush=True)


def compare(name: str, batch_size: int, turns: int, seconds: float) -> dict[str, float | str | int]:
    """Plain, ours and the floor, in turn: a machine that drifts is the same for all three."""
    command = [sys.executable, __file__, "--model", name, "--batch-size", str(batch_size), "--worker"]
    workers = {
        kind: subprocess.Popen([*command, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for kind in ("plain", "ours", "floor")
    }

    def turn(kind: str, steps: int) -> float:
        worker = workers[kind]
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(f"{steps}\n")
        worker.stdin.flush()
        return float(json.loads(worker.stdout.readline()))

    steps = {kind: max(1, round(seconds / turn(kind, 1))) for kind in workers}
    times: dict[str, list[float]] = {kind: [] for kind in workers}
    for _ in range(turns):
        for kind in workers:
            times[kind].append(turn(kind, steps[kind]))
    for worker in workers.values():
        assert worker.stdin
        worker.stdin.close()
        worker.wait()
    floor = min(times["floor"])
    plain, ours = (statistics.median(times[kind]) for kind in ("plain", "ours"))
    speeds = {"plain_step": batch_size / plain, "step": batch_size / ours, "floor": batch_size / floor}
    return {"model": name, "batch_size": batch_size, **speeds, "step_over_floor": floor / ours, "step_over_plain": plain / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="may be repeated; default: " + ", ".join(MODELS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=("plain", "ours", "floor"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(args.worker, args.model[0], args.batch_size)
        return
    rows = []
    for name in args.model or MODELS:
        row = compare(name, args.batch_size, args.turns, args.seconds)
        rows.append(row)
        if not args.json:
            print(
                f"{row['model']:12} plain {row['plain_step']:7.1f}  ours {row['step']:7.1f}  floor {row['floor']:7.1f} images/s"
                f"   ours/floor {row['step_over_floor']:.2f}  ours/plain {row['step_over_plain']:.2f}",
                flush=True,
            )
    if args.json:
        print(json.dumps({"schema_version": 1, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
