"""Damaged bytes of a packed file are detected before they are used."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.packed.read import KEY, Packed, open_packed
from cctkit.data.splits import Dataset, Split
from cctkit.engine.signals import StopRequest
from cctkit.errors import DamagedError, UserError
from cctkit.evaluation.source import EvalConfig, evaluate_source
from cctkit.training.reporter import Progress, Reporter
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from tests.conftest import write_images
from tests.data.packs import change_bytes, images_in, pack, without_checksums

TINY = {
    "model": "cct_2_3x2",
    "dataset": "digits",
    "image_size": "8",
    "batch_size": 128,
    "precision": "float32",
    "epochs": 2,
    "threads": 1,
}


class Told(Reporter):
    """Keeps the notices, and does something at the first log of an epoch."""

    log_every_s = 0.0

    def __init__(self, at_epoch: int = -1, then: Callable[[], object] = lambda: None) -> None:
        self.notices: list[str] = []
        self._at_epoch, self._then = at_epoch, then

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def progress(self, now: Progress) -> None:
        if now.epoch == self._at_epoch:
            self._at_epoch = -1
            self._then()


def train(run: Path, told: Told, **settings: Any) -> None:
    request = Request(flags=TINY | settings, file_values={}, output=run)
    start_run(request, reporter=told, stop=StopRequest())


def resume(run: Path) -> None:
    resume_run(run, {}, reporter=Told(), stop=StopRequest())


def packed_digits() -> Path:
    """The file in the cache from which such a run reads. The cache stays, with what was measured of this machine."""
    store = load_dataset(DataConfig(dataset="digits", image_size=(8, 8))).train.store
    assert isinstance(store, Packed)
    return store.path


def zero(file: Path) -> None:
    """60,000 bytes of the images are gone: a disk's fault."""
    change_bytes(file, bytes(60_000), at=images_in(file)[100_000])


def lines(run: Path) -> list[dict[str, Any]]:
    """The epochs of a run, without what depends on the clock."""
    clock = {"images_per_s", "input_percent", "train_seconds"}
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in clock} for line in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images that nothing happens to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, Told())
    return run


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_with_zeroed_packed_images_saves_and_packs_them_again_when_resumed(
    tmp_path: Path, whole: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed_digits()
    monkeypatch.setattr("cctkit.data.splits.CHUNK_IMAGES", 256)
    with pytest.raises(DamagedError, match=r"the packed pixels of \S+ and \d+ more are damaged") as caught:
        train(tmp_path / "run", Told(0, lambda: zero(file)), workers=workers)
    assert caught.value.exit_code == 2
    assert str(file) == caught.value.where
    assert str(caught.value.remedy).endswith(f"to pack again and resume: cctkit train --resume {tmp_path / 'run'}")
    assert not file.exists()
    assert max((tmp_path / "run" / "checkpoints").iterdir()).name > "step-000000000"
    resume(tmp_path / "run")
    assert lines(tmp_path / "run") == lines(whole)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_evaluation_detects_zeroed_test_images(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    file = packed_digits()
    zero(file)
    config = EvalConfig(data=DataConfig(), device="cpu")
    with pytest.raises(DamagedError, match="rerun the command to pack the images again"):
        evaluate_source(tmp_path / "run", config, notify=lambda _: None, progress=lambda *_: None)
    assert not file.exists()
    result = evaluate_source(tmp_path / "run", config, notify=lambda _: None, progress=lambda *_: None)
    assert result["top1_percent"] == json.loads((tmp_path / "run" / "result.json").read_text())["top1_percent"]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed file of a user's own, of 24 images of 8 x 8."""
    write_images(tmp_path / "images", {"cat": 12, "dog": 12}, size=(8, 8))
    pack(tmp_path / "images", tmp_path / "own.safetensors", size=8)
    return tmp_path / "own.safetensors"


def load(path: Path) -> Dataset:
    return load_dataset(DataConfig(dataset=str(path)))


def read(split: Split | None) -> None:
    if split is not None:
        split.take(np.arange(len(split)))


def test_each_changed_byte_of_an_image_is_detected_and_only_that_image_named(packed: Path) -> None:
    whole = packed.read_bytes()
    images = images_in(packed)
    for place in range(images.start, images.stop, 97):
        number = (place - images.start) // 192
        name = f"{'cat' if number < 12 else 'dog'}/{sorted(map(str, range(12)))[number % 12]}.png"
        change_bytes(packed, bytes([whole[place] ^ 1]), at=place)
        data = load(packed)
        others = replace(data.whole(), index=np.delete(data.whole().index, number))
        others.take(np.arange(len(others)))
        with pytest.raises(DamagedError, match=re.escape(f"the packed pixels of {name} are damaged")):
            data.whole().take(np.arange(24))
        change_bytes(packed, bytes([whole[place]]), at=place)


def test_a_damaged_file_outside_the_cache_is_not_removed(packed: Path) -> None:
    change_bytes(packed, bytes(192), at=images_in(packed)[0])
    with pytest.raises(DamagedError, match="make the file again: cctkit pack") as caught:
        read(load(packed).whole())
    assert packed.exists()
    assert not caught.value.dropped


def test_a_cached_file_that_another_process_has_repacked_is_not_removed(cache: Path, packed: Path) -> None:
    folder = packed.parent / "images"
    data = load(folder)
    (file,) = cache.iterdir()
    change_bytes(file, bytes(192), at=images_in(file)[0])
    again = file.with_name("again")
    again.write_bytes(file.read_bytes())
    os.replace(again, file)
    with pytest.raises(DamagedError):
        read(data.whole())
    assert file.exists()


def test_each_changed_byte_outside_the_images_is_detected(packed: Path) -> None:
    whole = packed.read_bytes()
    images, expected = images_in(packed), open_packed(packed)
    generator = np.random.default_rng(0)
    places = [int(place) for place in generator.integers(0, len(whole), 400) if place not in images]
    accepted = 0
    for place in places:
        change_bytes(packed, bytes([whole[place] ^ 1 << int(generator.integers(8))]), at=place)
        try:
            found = open_packed(packed)
        except UserError:
            pass
        else:  # white space, or the case of a digit of an exponent
            accepted += 1
            assert (found.name, found.class_names, found.fingerprint) == (
                expected.name,
                expected.class_names,
                expected.fingerprint,
            )
            assert found.labels.tolist() == expected.labels.tolist()
            assert found.ids(np.arange(24)) == expected.ids(np.arange(24))
        change_bytes(packed, bytes([whole[place]]), at=place)
    assert accepted <= len(places) // 2


def test_images_are_checked_before_they_are_copied_to_a_device(packed: Path) -> None:
    """The meta device is in the place of CUDA's, from which nothing comes back to be checked."""
    assert load(packed).on("meta", most_bytes=1e9).whole().take(np.arange(24)).device.type == "meta"
    change_bytes(packed, bytes(192), at=images_in(packed)[-192])
    with pytest.raises(DamagedError, match=r"dog/9\.png"):
        load(packed).on("meta", most_bytes=1e9)


def test_truncating_a_mapped_file_does_not_kill_the_process(packed: Path) -> None:
    """Reading what is gone of a mapped file would end it, by SIGBUS."""
    data = load(packed)
    os.truncate(packed, 6000)
    for use in (lambda: read(data.train), lambda: data.on("meta", most_bytes=1e9)):
        with pytest.raises(DamagedError, match=r"the packed file has 6,000 bytes, expected \d"):
            use()
    with pytest.raises(UserError, match="not a packed data set, or a damaged one"):
        load(packed)


def test_a_packed_file_of_an_earlier_version_loads_with_one_not_verified_notice(packed: Path, tmp_path: Path) -> None:
    pixels = load(packed).whole().take(np.arange(24))
    without_checksums(packed)
    assert load(packed).whole().take(np.arange(24)).equal(pixels)
    told = Told()
    train(tmp_path / "run", told, dataset=str(packed), image_size=None, batch_size=4, epochs=1)
    assert sum("not verified" in text for text in told.notices) == 1
    said: list[str] = []
    evaluate_source(tmp_path / "run", EvalConfig(data=DataConfig(), device="cpu"), notify=said.append, progress=lambda *_: None)
    assert [text for text in said if "not verified" in text] == [
        f"{packed} has no checksums (an earlier version wrote it): not verified"
    ]


@pytest.mark.parametrize("left_out", ["checksums", "digest"])
def test_a_file_without_the_checksums_of_its_version_is_refused(packed: Path, left_out: str) -> None:
    with safe_open(packed, framework="numpy") as file:
        header = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != left_out}  # noqa: SIM118
    save_file(tensors, packed, {KEY: json.dumps({key: value for key, value in header.items() if key != left_out})})
    with pytest.raises(UserError, match=left_out):
        open_packed(packed)
