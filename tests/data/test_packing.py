"""Packing can be stopped or killed at any time, and is resumed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from benchmarks.jobs import until
from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.packed import decode as decoding
from cctkit.data.packed import journal as partial
from cctkit.data.packed.decode import ROW
from cctkit.data.preprocess import decode
from cctkit.data.source import BadImageError
from cctkit.data.splits import Dataset
from cctkit.errors import StoppedError, UserError
from tests.conftest import write_images
from tests.data.packs import pack, runs

READING = "reading images"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", {"cat": 300, "dog": 100}, size=(4, 4))
    return tmp_path / "images"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that this process reads, which takes one process alone."""
    paths: list[str] = []

    def noted(path: str, **options: Any) -> Any:
        paths.append(path)
        return decode(path, **options)

    monkeypatch.setattr("cctkit.data.sources.folder.decode", noted)
    monkeypatch.setattr(decoding, "available_cores", lambda: 1)
    return paths


def load(folder: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder)), **options)


def stop_at(number: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if what == READING and done >= number:
            raise StoppedError(2)

    return progress


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told before each image."""
    monkeypatch.setattr(decoding, "_POLL_S", 0.0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stopped_packing_is_resumed(folder: Path, tmp_path: Path, read: list[str], often: None) -> None:
    whole = pack(folder, tmp_path / "whole")
    read.clear()
    for number in (100, 300):
        with pytest.raises(StoppedError, match=r"stopped after [0-9,]+ of 400 images; rerun"):
            pack(folder, tmp_path / "packed", progress=stop_at(number))
    assert pack(folder, tmp_path / "packed") == whole
    # Alone, 64 images at a time are written; the first is read once more to see its size.
    assert len(read) <= 400 + 2 * 64 + 3
    assert names(tmp_path) == ["images", "packed", "whole"]


def test_packing_into_the_cache_is_resumed_too_and_leaves_no_partial_file(
    folder: Path, cache: Path, read: list[str], often: None
) -> None:
    with pytest.raises(StoppedError):
        load(folder, progress=stop_at(200))
    before = len(read)
    data = load(folder)
    assert len(read) - before <= 400 - 128 + 1
    assert (len(data.train), len(data.test)) == (320, 80)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_another_size_or_other_images_restart_the_packing(folder: Path, tmp_path: Path, read: list[str], often: None) -> None:
    for size in (4, 8):
        with pytest.raises(StoppedError):
            pack(folder, tmp_path / "packed", size=size, progress=stop_at(200))
    Image.new("RGB", (4, 4)).save(folder / "cat" / "0.png")
    read.clear()
    assert pack(folder, tmp_path / "packed", size=3) == pack(folder, tmp_path / "again", size=3)
    assert len(read) == 2 * 401


def test_a_mix_of_sizes_is_detected_once(tmp_path: Path, read: list[str], often: None) -> None:
    """Small images of one size are packed as they are; where the last differs, what then begins is gone on with."""
    write_images(tmp_path / "images", {"cat": 200, "dog": 100}, size=(40, 40))
    Image.new("RGB", (41, 40)).save(tmp_path / "images" / "dog" / "99.png")
    done: list[int] = []

    def stop(what: str, number: int, total: int) -> None:
        done.append(number)
        if what == READING and done.count(150) == 2:
            raise StoppedError(2)

    with pytest.raises(StoppedError):
        pack(tmp_path / "images", tmp_path / "packed", size=80, progress=stop)
    read.clear()
    pack(tmp_path / "images", tmp_path / "packed", size=80)
    assert len(read) == 300 - 128 + 1
    assert load(tmp_path / "packed").stored_size == (80, 80)


def test_broken_images_are_read_once(folder: Path, cache: Path, tmp_path: Path, read: list[str]) -> None:
    for name in ("cat/7.png", "dog/99.png"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"2 broken images: cat/7\.png: not an image in a supported format"):
        load(folder)
    before = len(read)
    data = load_dataset(DataConfig(dataset=str(folder), skip_bad=True))
    assert len(read) - before == 3  # the first one, and the broken ones for what is wrong with them
    assert data.skipped == ("cat/7.png: not an image in a supported format", "dog/99.png: not an image in a supported format")
    assert len(data.train) + len(data.test) == 398
    assert pack(folder, tmp_path / "once", skip_bad=True, size=32) == next(cache.glob("*.safetensors")).read_bytes()


def test_an_image_that_could_not_be_read_once_is_read_again(
    folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that failed for a moment; the image that is broken stays so."""
    (folder / "cat" / "99.png").write_bytes(b"")
    whole = pack(folder, tmp_path / "whole", skip_bad=True)

    def fail(path: str, **options: Any) -> Any:
        if path.endswith("dog/7.png"):
            raise BadImageError("Input/output error")
        return decode(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("cctkit.data.sources.folder.decode", fail)
        with pytest.raises(UserError, match=r"cat/99\.png: not an image in a supported format; dog/7\.png: Input/output error"):
            pack(folder, tmp_path / "packed")
    with pytest.raises(UserError, match=r"1 broken image: cat/99\.png: not an image in a supported format"):
        pack(folder, tmp_path / "packed")
    assert pack(folder, tmp_path / "packed", skip_bad=True) == whole


@pytest.mark.parametrize(
    "spoil",
    [
        lambda images, journal: journal.write_bytes(b""),
        lambda images, journal: journal.write_bytes(b"0" * 64 + journal.read_bytes()[64:]),
        lambda images, journal: journal.write_bytes(journal.read_bytes()[: 64 + 10 * ROW.itemsize + 5]),
        lambda images, journal: journal.write_bytes(journal.read_bytes()[: 64 + 9 * ROW.itemsize] + bytes(40 * ROW.itemsize)),
        lambda images, journal: journal.write_bytes(journal.read_bytes() + b"\1" * 500 * ROW.itemsize),
        lambda images, journal: images.write_bytes(images.read_bytes()[:-1000]),
        lambda images, journal: images.write_bytes(images.read_bytes() + b"x" * 100_000),
        lambda images, journal: images.unlink(),
    ],
)
def test_packing_recovers_from_a_damaged_journal(
    folder: Path, tmp_path: Path, often: None, spoil: Callable[[Path, Path], Any]
) -> None:
    whole = pack(folder, tmp_path / "whole")
    with pytest.raises(StoppedError):
        pack(folder, tmp_path / "packed", progress=stop_at(200))
    spoil(tmp_path / "packed.part", tmp_path / "packed.part.rows")
    assert pack(folder, tmp_path / "packed") == whole
    assert names(tmp_path) == ["images", "packed", "whole"]


KILLED = """
import os, sys, time
from pathlib import Path
from cctkit.config.settings import DataConfig
from cctkit.data import images
from cctkit.data.packed import decode as decoding
from cctkit.data.sources import folder
from cctkit.data.packed import journal as partial

def slow(path, decode=folder.decode, **options):
    with open("readers", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.005)
    return decode(path, **options)

folder.decode, decoding.available_cores = slow, lambda: 2
decoding._ALONE_S, decoding._CHUNK, partial._COMMIT_EVERY_S = 0.0, 8, 0.0
images.pack_dataset(DataConfig(dataset=sys.argv[1], image_size=(4, 4)), Path("packed"))
"""


def test_a_killed_packing_leaves_no_process_and_is_resumed(folder: Path, tmp_path: Path, read: list[str]) -> None:
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], cwd=tmp_path)
    journal = tmp_path / "packed.part.rows"
    until(lambda: killed.poll() is not None or (journal.exists() and journal.stat().st_size >= 64 + 100 * ROW.itemsize))
    assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    known = (journal.stat().st_size - 64) // ROW.itemsize
    assert pack(folder, tmp_path / "packed") == pack(folder, tmp_path / "whole")
    assert len(read) - 401 == 400 - known + 1
    readers = set(map(int, (tmp_path / "readers").read_text().split())) - {killed.pid}
    assert readers
    until(lambda: not any(runs(reader) for reader in readers))


def test_a_changed_byte_of_the_journal_is_detected(folder: Path, tmp_path: Path, often: None) -> None:
    """What it says of an image goes into the packed file: a changed digest would make other images of the same pixels."""
    whole = pack(folder, tmp_path / "whole")
    journal = tmp_path / "packed.part.rows"
    for name in ("sums", "digest", "checksum"):
        place = 64 + 7 * ROW.itemsize + ROW.fields[name][1]
        with pytest.raises(StoppedError):
            pack(folder, tmp_path / "packed", progress=stop_at(100))
        data = bytearray(journal.read_bytes())
        data[place] ^= 1
        journal.write_bytes(data)
        assert pack(folder, tmp_path / "packed") == whole
        (tmp_path / "packed").unlink()


class KilledError(BaseException):
    """In the place of a kill: what was done before it stays, and nothing is done after."""


class Spied:
    """An open file that counts what changes it."""

    def __init__(self, file: BinaryIO, count: Callable[[], None]) -> None:
        self._file, self._count = file, count

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "truncate"):
            self._count()
        return getattr(self._file, name)


@pytest.mark.parametrize("number", range(8))
def test_a_packing_killed_at_its_start_never_mixes_changed_images_with_old_ones(
    folder: Path, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The new key over the old journal, which was cut only then, made 192 old images of 400 pass for new ones."""
    with pytest.raises(StoppedError):
        pack(folder, tmp_path / "packed", progress=stop_at(200))
    write_images(folder, {"cat": 300, "dog": 100}, size=(4, 4), seed=1)
    left = number

    def count() -> None:
        nonlocal left
        if left == 0:
            raise KilledError
        left -= 1

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            count()
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(partial, "_opened", lambda path, opened=partial._opened: Spied(opened(path), count))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(os, "fsync", counted(os.fsync))
        with pytest.raises(KilledError):
            pack(folder, tmp_path / "packed")
    assert pack(folder, tmp_path / "packed") == pack(folder, tmp_path / "whole")
    assert names(tmp_path) == ["images", "packed", "whole"]


def test_a_process_that_waits_for_another_says_so_and_then_holds_the_lock_alone(tmp_path: Path) -> None:
    said: list[str] = []
    inside = 0

    def hold(_: int) -> None:
        nonlocal inside
        with partial.open_partial(tmp_path / "packed.part", lambda what, *_: said.append(what)) as begun:
            inside += 1
            assert inside == 1
            time.sleep(0.12)
            inside -= 1
            begun.remove()  # as after it has become the packed file

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(4)))
    assert set(said) == {"waiting for another process that packs these images"}
    assert names(tmp_path) == []


def test_two_processes_at_once_read_the_images_once(folder: Path, cache: Path, read: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load(folder), range(4)))
    assert len({data.fingerprint for data in found}) == 1
    assert len({data.train.take(np.arange(len(data.train))).numpy().tobytes() for data in found}) == 1
    assert len(read) <= 401 + 400  # a start may look for the finished file, and then find nobody to wait for
    assert len(list(cache.iterdir())) == 1


def test_partial_files_older_than_a_week_are_removed_from_the_cache(folder: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    for name in ("old", "young", "held"):
        for suffix in ("part", "part.rows"):
            (cache / f"{name}.{suffix}").write_bytes(b"half")
    week = time.time() - partial._KEPT_S - 60
    os.utime(cache / "old.part", (week, week))
    os.utime(cache / "held.part", (week, week))
    with partial.open_partial(cache / "held.part", lambda *_: None):
        load(folder)
    left = [name for name in names(cache) if "part" in name]
    assert left == ["held.part", "held.part.rows", "young.part", "young.part.rows"]
    assert len(names(cache)) == 5


def test_an_output_that_exists_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").write_text("mine")
    with pytest.raises(UserError, match="nothing is overwritten"):
        pack(folder, tmp_path / "packed")
    assert (tmp_path / "packed").read_text() == "mine"
    with pytest.raises(UserError, match="expected a folder"):
        pack(tmp_path / "packed", tmp_path / "other")
