"""Packing on several cores keeps the order, whether processes end, die or are stopped."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.jobs import until
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.packed import decode as decoding
from cctkit.data.packed.decode import ROW
from cctkit.data.preprocess import decode
from cctkit.errors import ResourceError, StoppedError
from tests.conftest import write_images
from tests.data.packs import pack, runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", {"cat": 300, "dog": 100}, size=(4, 4))
    return tmp_path / "images"


@pytest.mark.parametrize(("cores", "alone_s"), [(1, 0.0), (3, 0.0), (3, 100.0)])
@pytest.mark.parametrize("platform", ["linux", "other"])
def test_many_images_come_in_order_from_any_number_of_cores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, alone_s: float, platform: str
) -> None:
    if platform == "other" and sys.platform == "linux":
        monkeypatch.setattr(decoding.sys, "platform", "darwin")
    monkeypatch.setattr(decoding, "available_cores", lambda: cores)
    monkeypatch.setattr(decoding, "_ALONE_S", alone_s)
    pack(folder, tmp_path / "packed")
    data = load_dataset(DataConfig(dataset=str(tmp_path / "packed")))
    ids = data.train.ids()
    assert len(ids) + len(data.test.ids()) == 400
    for i in range(0, len(ids), 7):
        expected = np.asarray(Image.open(folder / ids[i])).transpose(2, 0, 1)
        assert np.array_equal(data.train.take(np.array([i]))[0].numpy(), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_images_are_read_in_several_processes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, parent = tmp_path / "log", os.getpid()

    def noted(path: str, **options: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if os.getpid() != parent:  # neither reads on before both have begun
            until(lambda: len(set(log.read_text().split()) - {str(parent)}) == 2)
        return decode(path, **options)

    monkeypatch.setattr("cctkit.data.sources.folder.decode", noted)
    monkeypatch.setattr(decoding, "available_cores", lambda: 2)
    monkeypatch.setattr(decoding, "_ALONE_S", 0.0)
    pack(folder, tmp_path / "packed")
    readers = log.read_text().splitlines()
    assert len(set(readers) - {str(os.getpid())}) == 2
    assert not any(runs(int(reader)) for reader in set(readers) - {str(os.getpid())})


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
def test_a_reading_process_that_dies_is_a_resource_error_and_packing_can_resume(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getpid()

    def dying(path: str, **options: Any) -> Any:
        if path.endswith("dog/50.png") and os.getpid() != here:
            os._exit(9)
        return decode(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("cctkit.data.sources.folder.decode", dying)
        patch.setattr(decoding, "available_cores", lambda: 2)
        patch.setattr(decoding, "_ALONE_S", 0.0)
        with pytest.raises(ResourceError, match="because memory ran out"):
            pack(folder, tmp_path / "packed")
    assert (tmp_path / "packed.part.rows").stat().st_size >= 64 + 64 * ROW.itemsize
    assert pack(folder, tmp_path / "packed") == pack(folder, tmp_path / "whole")


def test_a_packing_can_be_stopped_within_one_chunk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.touch()

    def slow(path: str, **options: Any) -> Any:
        with log.open("a") as file:
            file.write("x")
        time.sleep(0.01)
        return decode(path, **options)

    def stop(what: str, done: int, total: int) -> None:
        if log.stat().st_size > 80:
            raise StoppedError(15)

    monkeypatch.setattr("cctkit.data.sources.folder.decode", slow)
    monkeypatch.setattr(decoding, "_CHUNK", 64)
    monkeypatch.setattr(decoding, "_ALONE_S", 0.0)
    monkeypatch.setattr(decoding, "available_cores", lambda: 2)
    with pytest.raises(StoppedError):
        pack(folder, tmp_path / "packed", progress=stop)
    assert log.stat().st_size < 64 + 2 * 64
