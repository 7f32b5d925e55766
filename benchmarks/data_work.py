"""What `data.py` runs in fresh processes. Imports are inside the functions: the allocator is set before torch is imported."""

import contextlib
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEST_IMAGES = 200
CLASSES = 100


def make(path: Path, images: int, side: int) -> None:
    """A packed file of noise; the images are overlapping parts of 8 MiB."""
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
    """Class folders of PNG files of 32 x 32 pixels."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    for i in range(images):
        place = path / f"class {i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(place / f"{i}.png", compress_level=1)


def anonymous_bytes() -> int:
    """Anonymous memory of this process: what is not mapped from a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel does not report RssAnon in /proc/self/status")


class Peak:
    """Peak anonymous memory within a `with` block, sampled every 5 ms."""

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
    """Train some steps as `cctkit train` does: seconds to load the data, and peak anonymous memory."""
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
    """Seconds until the data is ready, their CPU time, and seconds until the first batch, all without the imports."""
    from cctkit.config.settings import DataConfig, TrainConfig
    from cctkit.data.dataset import load_dataset
    from cctkit.data.epoch.policies import operators

    operators()
    start, cpu_start = time.perf_counter(), time.process_time()
    dataset = load_dataset(DataConfig(dataset=str(path)))
    ready_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    next(_epoch(dataset, TrainConfig(), 0, "cpu"))
    return {"ready_s": ready_s, "processor_s": cpu_s, "first_batch_s": time.perf_counter() - start}


def _epoch(dataset: Any, config: Any, epoch: int, device: str) -> Iterator[Any]:
    from cctkit.bench.training import epoch_batches

    number = len(dataset.train)
    return epoch_batches(dataset.train, config, epoch=epoch, num_images=number, preprocess=dataset.preprocess, device=device)


_turn: Any = None


def prepare_turns(path: Path, model: str, batch_size: int) -> None:
    """Load the data and build the model for `turn`."""
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.bench.training import Training
    from cctkit.catalog.models import named_config
    from cctkit.config.settings import DataConfig, TrainConfig
    from cctkit.data.dataset import load_dataset
    from cctkit.engine.device import choose_policy

    global _turn
    dataset, policy, config = load_dataset(DataConfig(dataset=str(path))), choose_policy(), TrainConfig(batch_size=batch_size)
    training = Training(named_config(model, num_classes=CLASSES), config, policy, batch_size=batch_size)
    batches = itertools.chain.from_iterable(_epoch(dataset, config, epoch, policy.device) for epoch in itertools.count())

    def one(kind: str, steps: int) -> tuple[float, float]:
        start, cpu_start = time.perf_counter(), time.process_time()
        for batch in itertools.islice(batches, steps):
            if kind == "train":
                training.train(batch)
        images = steps * batch_size
        return images / (time.perf_counter() - start), images / (time.process_time() - cpu_start)

    _turn = one


def turn(kind: str, steps: int) -> tuple[float, float]:
    """Images per second, and per second of CPU time, of training steps (kind "train") or of their batches alone ("input")."""
    return _turn(kind, steps)  # type: ignore[no-any-return]
