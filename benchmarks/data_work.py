"""What the processes of `data.py` do: `python data_work.py KIND PATH ...`; results go to stdout, JSON or a number a line."""

import contextlib
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEST_IMAGES = 200
CLASSES = 100


def make(path: Path, images: int, side: int) -> None:
    """A packed file of noise: every image is another part of a few megabytes, or nearly so."""
    import numpy as np

    from cctkit.data.packed.pack import PackConfig, pack
    from cctkit.data.preprocess import Preprocess
    from cctkit.data.source import ROLES, DecodedImage, Source

    noise = np.random.default_rng(0).integers(0, 256, 8 * 2**20 + 3 * side * side, dtype=np.uint8)

    def read(i: int) -> Any:
        start = i * 7919 % (8 * 2**20)
        return DecodedImage(noise[start : start + 3 * side * side].reshape(side, side, 3))

    number = images + TEST_IMAGES
    roles = np.full(number, ROLES.index("train"), dtype=np.int8)
    roles[images:] = ROLES.index("test")
    source = Source(
        name=f"noise of {images}",
        place=str(path),
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        labels=np.arange(number) % CLASSES,
        roles=roles,
        ids=[f"{i % CLASSES}/{i}.png" for i in range(number)],
        read=read,
    )
    config = PackConfig(key=f"{images} of {side}", preprocess=Preprocess(stored_size=(side, side)), skip_bad=False)
    pack(source, path, config=config, progress=lambda *_: None)


def make_folder(path: Path, images: int) -> None:
    """Folders of PNG files, 32 x 32 pixels."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    for i in range(images):
        place = path / f"class {i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(place / f"{i}.png", compress_level=1)


def anonymous_bytes() -> int:
    """Of this process, in memory: what no file stands behind."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel does not tell anonymous memory from mapped files")


class Peak:
    """The most anonymous memory within a `with`, looked at every 5 ms."""

    def __enter__(self) -> "Peak":
        self.bytes = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def training(path: Path, model: str, recipe: str, steps: int, batch_size: int) -> dict[str, float]:
    """Start and train some steps as `cctkit train` does: seconds to have the data, and the peak of anonymous memory."""
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.config.settings import DataConfig
    from cctkit.data.dataset import load_dataset
    from cctkit.engine.signals import StopRequest
    from cctkit.errors import StoppedError
    from cctkit.training.request import Request
    from cctkit.training.run import start_run

    stop = StopRequest()

    class Stopper:
        log_every_s = 0.0

        def progress(self, now: Any) -> None:
            if now.epoch * now.steps + now.step >= steps:
                stop.signal_number = 15

        def notice(self, *_: Any) -> None: ...
        def evaluating(self, *_: Any) -> None: ...
        def epoch(self, *_: Any) -> None: ...
        def data(self, *_: Any) -> None: ...

    flags = {"dataset": str(path), "model": model, "batch_size": batch_size}
    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        start = time.perf_counter()
        load_dataset(DataConfig(dataset=str(path)))
        seconds = time.perf_counter() - start
        request = Request(flags=flags, file_values={}, recipe=recipe, output=Path(folder) / "run")
        with contextlib.suppress(StoppedError):
            start_run(request, reporter=Stopper(), stop=stop)
    return {"start_s": seconds, "anonymous_bytes": peak.bytes}


def opening(path: Path) -> dict[str, float]:
    """Seconds, imports aside, until the data is ready, those of the processor, and until the first batch is there."""
    from cctkit.config.settings import DataConfig, TrainConfig
    from cctkit.data.dataset import load_dataset
    from cctkit.data.epoch.loader import train_batches
    from cctkit.data.epoch.plan import EpochPlan
    from cctkit.data.epoch.policies import operators

    operators()
    start, processor = time.perf_counter(), time.process_time()
    dataset, config = load_dataset(DataConfig(dataset=str(path))), TrainConfig()
    ready_s, processor_s = time.perf_counter() - start, time.process_time() - processor
    plan = EpochPlan.draw(
        seed=config.seed,
        epoch=0,
        num_images=len(dataset.train),
        batch_size=config.batch_size,
        image_size=dataset.stored_size,
        config=config.augment,
    )
    batches = train_batches(
        dataset.train,
        plan=plan,
        preprocess=dataset.preprocess,
        device="cpu",
    )
    next(batches)
    return {"ready_s": ready_s, "processor_s": processor_s, "first_batch_s": time.perf_counter() - start}


def turns(path: Path, model: str, batch_size: int) -> None:
    """For every line on stdin so many steps, or without a model batches; on stdout the images by seconds, and by those of a
    processor, which other programs do not take."""
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.catalog.models import named_config
    from cctkit.config.settings import DataConfig, TrainConfig
    from cctkit.data.dataset import load_dataset
    from cctkit.data.epoch.augment import Batch
    from cctkit.data.epoch.loader import train_batches
    from cctkit.data.epoch.plan import EpochPlan
    from cctkit.engine.device import choose_policy
    from cctkit.models.build import build_model
    from cctkit.training.optim import make_optimizers
    from cctkit.training.step import new_state, train_step

    dataset, policy = load_dataset(DataConfig(dataset=str(path))), choose_policy()
    config = TrainConfig(batch_size=batch_size)

    def stream() -> Iterator[Batch]:
        for epoch in itertools.count():
            plan = EpochPlan.draw(
                seed=config.seed,
                epoch=epoch,
                num_images=len(dataset.train),
                batch_size=config.batch_size,
                image_size=dataset.stored_size,
                config=config.augment,
            )
            yield from train_batches(
                dataset.train,
                plan=plan,
                preprocess=dataset.preprocess,
                device=policy.device,
            )

    net = policy.prepare(build_model(named_config(model, num_classes=CLASSES), seed=0)).train()
    state = new_state(net, make_optimizers(net, config), ema=None, policy=policy)
    batches = stream()
    for line in sys.stdin:
        kind, steps = line.split()
        start, processor = time.perf_counter(), time.process_time()
        for batch in itertools.islice(batches, int(steps)):
            if kind == "train":
                train_step(state, batch, config=config, policy=policy, lr_factor=1.0)
        images = int(steps) * batch_size
        print(images / (time.perf_counter() - start), images / (time.process_time() - processor), flush=True)


def main(kind: str, path: Path, *rest: str) -> None:
    if kind == "make":
        make(path, int(rest[0]), int(rest[1]))
    elif kind == "folder":
        make_folder(path, int(rest[0]))
    elif kind == "opening":
        print(json.dumps(opening(path)))
    elif kind == "training":
        print(json.dumps(training(path, rest[0], rest[1], int(rest[2]), int(rest[3]))))
    else:
        turns(path, rest[0], int(rest[1]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
