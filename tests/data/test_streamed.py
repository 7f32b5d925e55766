"""A streamed folder is read on demand and trained on like a packed one."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from cctkit import api
from cctkit.config.settings import AugmentConfig, DataConfig
from cctkit.data import reading
from cctkit.data.dataset import load_dataset
from cctkit.data.epoch.augment import Batch
from cctkit.data.epoch.loader import train_batches
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.images import pack_dataset
from cctkit.data.preprocess import Preprocess, decode
from cctkit.data.splits import Dataset
from cctkit.engine.signals import StopRequest
from cctkit.errors import StoppedError, UserError
from cctkit.training.request import Request
from cctkit.training.run import resume_run, start_run
from tests.conftest import write_images

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there are fewer cores than workers

SIZE = (28, 28)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos of several sizes and formats, in a split that is there."""
    root = tmp_path / "photos"
    write_images(root / "train", {"cat": 9, "dog": 9}, size=(48, 40))
    write_images(root / "test", {"cat": 3, "dog": 3}, size=(30, 64), seed=1)
    for number, size in enumerate([(200, 160), (90, 70), (33, 120)]):
        noise = np.random.default_rng(number).integers(0, 256, (size[1] // 8, size[0] // 8, 3)).astype(np.uint8)
        Image.fromarray(noise).resize(size).save(root / "train" / "cat" / f"photo{number}.jpg")
    return root


def load(folder: Path, **config: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder), **{"image_size": SIZE, "stream": True} | config))


def everything(dataset: Dataset) -> list[torch.Tensor]:
    return [split.take(np.arange(len(split))) for split in (dataset.train, dataset.test) if split is not None]


def batches(dataset: Dataset, config: AugmentConfig, **options: Any) -> Sequence[Batch]:
    plan = EpochPlan.draw(
        seed=0,
        epoch=1,
        num_images=len(dataset.train),
        batch_size=8,
        image_size=SIZE,
        config=config,
        read_size=dataset.train.image_size,
    )
    stream = train_batches(
        dataset.train,
        plan=plan,
        preprocess=Preprocess(stored_size=SIZE, mean=(0.5,) * 3, std=(0.2,) * 3),
        device="cpu",
        **options,
    )
    return list(stream)


def equal(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.images.equal(b.images) and a.labels.equal(b.labels) for a, b in zip(first, second, strict=True)
    )


def test_evaluation_reads_the_pixels_that_packing_stores(folder: Path) -> None:
    for mode in ("crop", "squash"):
        streamed, packed = load(folder, resize_mode=mode), load(folder, resize_mode=mode, stream=False)
        assert all(a.equal(b) for a, b in zip(everything(streamed), everything(packed), strict=True))
        assert streamed.train.ids() == packed.train.ids()
        assert np.array_equal(streamed.train.labels, packed.train.labels)
        assert streamed.class_names == packed.class_names


def test_without_a_resized_crop_the_batches_are_those_of_the_packed_folder(folder: Path) -> None:
    for path in folder.rglob("*.jpg"):
        path.unlink()  # decoded smaller than they are, faster
    config = AugmentConfig(mixup=0.5, random_erase=0.5)
    streamed = load(folder).for_training(config.crop)
    assert equal(batches(streamed, config), batches(load(folder, stream=False), config))


@pytest.mark.parametrize("shared_bytes", [2**25, 3 * 3 * 32 * 32 * 8])
def test_workers_chunks_and_the_starting_step_change_nothing(
    folder: Path, shared_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a batch does not fit into the memory that is shared, and is read in parts."""
    monkeypatch.setattr(reading, "_SHARED_BYTES", shared_bytes)
    config = AugmentConfig(auto_augment="rand", crop="resized", cutmix=1.0)
    dataset = load(folder).for_training(config.crop)
    expected = batches(dataset, config)
    assert [len(batch.labels) for batch in expected] == [8, 8, 5]
    assert expected[0].images.shape[1:] == (3, 28, 28)
    assert equal(batches(dataset, config, chunk_images=1), expected)
    assert equal(batches(dataset, config, chunk_images=1, workers=2), expected)
    assert equal(batches(dataset, config, start_step=1, workers=1), expected[1:])


def test_a_resized_crop_is_taken_from_an_image_with_a_margin(folder: Path) -> None:
    """As torchvision's `resized_crop` of the plan's box, of 32 pixels for the model's 28."""
    config = AugmentConfig(auto_augment="none", crop="resized", flip=False)
    dataset = load(folder).for_training(config.crop)
    assert dataset.train.image_size == (32, 32)
    assert dataset.test is not None
    assert dataset.test.image_size == SIZE
    plan = EpochPlan.draw(
        seed=0, epoch=1, num_images=21, batch_size=8, image_size=SIZE, config=config, read_size=dataset.train.image_size
    )
    assert plan.box is not None
    assert (plan.box[:, 2:].max(), (plan.box[:, :2] + plan.box[:, 2:]).max()) == (32, 32)
    images = torch.cat([batch.images for batch in batches(dataset, config)])
    for i in (0, 7, 20):
        (read,) = dataset.train.take(plan.order[i : i + 1])
        crop = functional.resized_crop(read, *plan.box[i].tolist(), list(SIZE), interpolation=3, antialias=True)
        assert torch.allclose(images[i], (crop / 255 - 0.5) / 0.2, atol=1e-5)


def test_crop_scale_allows_smaller_crops() -> None:
    for scale in (0.08, 0.8):
        config = AugmentConfig(crop="resized", crop_scale=scale)
        plan = EpochPlan.draw(seed=0, epoch=0, num_images=4000, batch_size=8, image_size=(224, 224), config=config)
        assert plan.box is not None
        share = plan.box[:, 2].astype(int) * plan.box[:, 3] / 224**2
        assert share.min() == pytest.approx(scale, abs=0.01)


def test_a_jpeg_is_decoded_at_the_smallest_sufficient_size(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3)).astype(np.uint8)).save(path, exif=exif)
    assert decode(str(path)).pixels.shape == (500, 300, 3)
    for least, shape in [(301, (500, 300, 3)), (150, (250, 150, 3)), (100, (250, 150, 3)), (32, (63, 38, 3)), (1, (63, 38, 3))]:
        assert decode(str(path), least_side=least).pixels.shape == shape


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_when_read_as_in_packing(folder: Path, workers: int) -> None:
    broken = folder / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:300])
    dataset = load(folder)
    with pytest.raises(UserError, match=r"1 broken image: train/dog/3.png: ") as streamed:
        batches(dataset, AugmentConfig(), workers=workers)
    with pytest.raises(UserError) as packed:
        load(folder, stream=False)
    assert (streamed.value.what, streamed.value.where) == (packed.value.what, packed.value.where)
    assert streamed.value.remedy is not None


def test_the_fingerprint_covers_names_and_sizes_not_the_location(folder: Path, tmp_path: Path) -> None:
    before = load(folder).fingerprint
    copy = tmp_path / "elsewhere" / "photos"
    shutil.copytree(folder, copy)
    for path in copy.rglob("*.png"):
        os.utime(path, (1, 1))
    assert load(copy).fingerprint == before
    assert before != load(folder, stream=False).fingerprint
    with open(copy / "train" / "cat" / "0.png", "ab") as file:
        file.write(b"\0")
    assert load(copy).fingerprint != before
    (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / "a.png")
    assert load(folder).fingerprint != before


def test_the_split_does_not_depend_on_the_location(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "photos"
    shutil.copytree(folder / "train", copy)
    first, second = load(folder / "train"), load(copy)
    assert first.test is not None
    assert second.test is not None
    assert (first.train.ids(), first.test.ids()) == (second.train.ids(), second.test.ids())
    assert set(first.train.ids()).isdisjoint(first.test.ids())
    assert len(first.train) + len(first.test) == 21
    other = load(copy, split_seed=1)
    assert other.test is not None
    assert other.test.ids() != first.test.ids()


def test_only_a_folder_can_be_streamed_and_not_with_skip_bad(folder: Path, tmp_path: Path) -> None:
    pack_dataset(DataConfig(dataset=str(folder)), tmp_path / "packed.safetensors")
    for name in ("digits", str(tmp_path / "packed.safetensors"), None):
        with pytest.raises(UserError, match="--stream"):
            load_dataset(DataConfig(dataset=name, stream=True))
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--skip-bad"):
        DataConfig(dataset=str(folder), stream=True, skip_bad=True)


class StopAfter(api.SilentReporter):
    """Asks for a stop in the middle of the first epoch."""

    log_every_s = 0.0

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def progress(self, now: Any) -> None:
        if (now.epoch, now.step) == (0, 2):
            self.stop.signal_number = 15


def test_a_streamed_run_does_not_depend_on_workers_or_resuming(folder: Path, tmp_path: Path) -> None:
    flags = {
        "dataset": str(folder), "stream": True, "image_size": "28", "epochs": 2, "batch_size": 8, "crop": "resized",
        "device": "cpu",
    }  # fmt: skip
    unbroken = tmp_path / "unbroken"
    result = api.fit(output=unbroken, recipe="report", **flags, workers=0)
    stop, path = StopRequest(), tmp_path / "resumed"
    request = Request(flags=flags | {"workers": 1}, file_values={}, recipe="report", output=path)
    reporter = StopAfter(stop)
    with pytest.raises(StoppedError):
        start_run(request, reporter=reporter, stop=stop)
    resume_run(path, {"workers": 2}, reporter=reporter, stop=StopRequest())
    weights = unbroken / "weights.safetensors"
    assert (path / "weights.safetensors").read_bytes() == weights.read_bytes()

    for evaluated in (api.evaluate(unbroken), api.evaluate(weights, dataset=str(folder))):
        assert (evaluated["loss"], evaluated["num_images"]) == (result["loss"], 6)


def test_a_streamed_run_is_evaluated_on_its_own_test_images(folder: Path, tmp_path: Path) -> None:
    """Packing would split by pixels, and evaluate on images of training."""
    place, run = str(folder / "train"), tmp_path / "run"
    result = api.fit(
        dataset=place, stream=True, image_size="28", epochs=1, batch_size=8, recipe="report", output=run, workers=0
    )
    assert api.evaluate(run / "weights.safetensors", dataset=place)["loss"] == result["loss"]
