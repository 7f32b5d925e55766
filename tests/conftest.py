"""What every test shares: a cache of its own, a CPU measured alike everywhere, and no way to the network."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.probes import write_probe

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest-xdist has a process for each core


LONG = {"test_distributed", "test_sharding", "test_train", "test_kills", "test_repeating", "test_bench_command", "test_signals"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: beside the last of them no core is idle."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCTKIT_CACHE", str(folder))
        patch.setenv("CCTKIT_DATA", str(folder / "data"))
        patch.setenv("NO_COLOR", "1")
        yield write_probe(folder)


@pytest.fixture
def cache(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the packed files of this test alone are kept."""
    monkeypatch.setenv("CCTKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    shutil.copy(own_cache / "probe.json", tmp_path / "cache")
    return tmp_path / "cache" / "packed"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


def write_images(folder: Path, classes: dict[str, int], *, size: tuple[int, int] = (16, 16), seed: int = 0) -> None:
    """PNG files of `classes` (name -> number), each class of its own brightness, (width, height) = `size`."""
    generator = np.random.default_rng(seed)
    for label, (name, number) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            pixels = generator.integers(0, 60, (size[1], size[0], 3)) + 40 * (label + 1)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
