"""Images smaller than the model's input are stored at their size and upsampled on the device, in `eval` as in training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cctkit.api import evaluate, fit
from cctkit.config.settings import AugmentConfig, DataConfig
from cctkit.config.size import Size
from cctkit.data.dataset import load_dataset
from cctkit.data.epoch.augment import normalize_and_mix
from cctkit.data.epoch.plan import EpochPlan
from cctkit.data.preprocess import Preprocess, stored_size
from cctkit.data.splits import Dataset
from cctkit.errors import UserError
from cctkit.models.weights import Upsampling, read_info
from tests.conftest import write_images

PLAIN = Preprocess(stored_size=(32, 32))


def folder_of(place: Path, *, size: tuple[int, int], number: int = 8, seed: int = 0) -> Path:
    for side, first in (("train", seed), ("test", seed + 1)):
        write_images(place / side, {"cat": number, "dog": number}, size=size, seed=first)
    return place


def load(folder: Path, image_size: Size, **config: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder), image_size=image_size, **config))


@pytest.mark.parametrize(
    ("native", "model", "stored"),
    [
        ((32, 32), (224, 224), (32, 32)),
        ((64, 48), (128, 96), (64, 48)),
        ((28, 28), (224, 224), (32, 32)),  # MNIST: augmentation wants 32 pixels
        ((8, 8), (32, 32), (32, 32)),  # the digits
        ((8, 8), (16, 16), (16, 16)),
        ((32, 32), (32, 32), (32, 32)),
        ((256, 256), (224, 224), (224, 224)),
        ((64, 48), (128, 128), (128, 128)),  # of another shape
        ((32, 24), (224, 168), (224, 168)),  # of another shape once it has 32 pixels
    ],
)
def test_small_images_with_the_models_aspect_ratio_keep_their_size(native: Size, model: Size, stored: Size) -> None:
    assert stored_size(native, model) == stored


def test_a_folder_of_small_images_is_stored_at_their_size(cache: Path, tmp_path: Path) -> None:
    data = load(folder_of(tmp_path / "images", size=(40, 40)), (160, 160))
    assert (data.stored_size, data.image_size) == ((40, 40), (160, 160))
    assert next(cache.iterdir()).stat().st_size < 32 * 3 * 40 * 40 + 10_000
    expected = np.asarray(Image.open(tmp_path / "images" / data.train.ids()[3])).transpose(2, 0, 1)
    assert np.array_equal(data.train.take(np.array([3]))[0].numpy(), expected)


@pytest.mark.parametrize("odd", ["train/cat/0.png", "test/dog/39.png"])
def test_one_image_of_another_size_makes_all_take_the_models_size(cache: Path, tmp_path: Path, odd: str) -> None:
    """The first image, and the last, which is decoded on all cores: what was written until then is written again."""
    folder = folder_of(tmp_path / "images", size=(40, 40), number=40)
    Image.fromarray(np.full((41, 40, 3), 7, dtype=np.uint8)).save(folder / odd)
    data = load(folder, (80, 80))
    assert (data.stored_size, data.image_size) == ((80, 80), (80, 80))
    split = data.train if odd.startswith("train") else data.test
    assert split is not None
    assert (split.take(np.array([split.ids().index(odd)])) == 7).all()


def test_a_broken_first_image_does_not_hide_that_all_are_small(cache: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", size=(40, 40))
    (folder / "train" / "cat" / "0.png").write_text("no image")
    assert load(folder, (80, 80), skip_bad=True).stored_size == (40, 40)


def test_a_packed_file_works_for_models_with_larger_input(cache: Path, tmp_path: Path) -> None:
    load(folder_of(tmp_path / "images", size=(40, 40)), (40, 40))
    file = next(cache.iterdir())
    data = load(file, (80, 80))
    assert (data.stored_size, data.image_size) == ((40, 40), (80, 80))
    for size in ((39, 39), (80, 40)):
        with pytest.raises(UserError, match="cannot be upsampled to"):
            load(file, size)


def test_upsampling_equals_pillows() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = replace(PLAIN, image_size=(96, 120)).to_input(images, channels_last=True)
    assert out.is_contiguous(memory_format=torch.channels_last)
    for image, enlarged in zip(images, out, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((120, 96), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        torch.testing.assert_close(255 * enlarged, expected.float(), rtol=0, atol=0.75)


def test_a_batch_is_upsampled_last() -> None:
    config = AugmentConfig(auto_augment="none", crop="none", flip=False, mixup=1.0, random_erase=1.0)
    plan = EpochPlan.draw(seed=0, epoch=0, num_images=8, batch_size=8, image_size=(32, 32), config=config)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"plan": plan, "channels_last": False}
    small = normalize_and_mix(images, torch.arange(8), preprocess=PLAIN, **settings).images
    large = normalize_and_mix(images, torch.arange(8), preprocess=replace(PLAIN, image_size=(64, 64)), **settings).images
    expected = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(large, expected)


def train(folder: Path, output: Path, image_size: int) -> dict[str, Any]:
    return fit(
        output=output,
        dataset=str(folder),
        model="cct_2_3x2",
        image_size=image_size,
        epochs=1,
        batch_size=8,
        random_erase=1.0,  # its boxes are of the images' own size
        device="cpu",
        precision="float32",
    )


def test_evaluation_upsamples_as_training_did(cache: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "small", size=(40, 40))
    result = train(folder, tmp_path / "run", 64)
    info = read_info(tmp_path / "run" / "weights.safetensors")
    assert (info.upsampling, info.model.image_size) == (Upsampling(stored_size=(40, 40)), (64, 64))
    assert len(list(cache.iterdir())) == 1
    again = evaluate(tmp_path / "run", device="cpu")
    assert {key: again[key] for key in ("loss", "top1_percent")} == {key: result[key] for key in ("loss", "top1_percent")}
    assert len(list(cache.iterdir())) == 1  # nothing was packed anew

    pictures = folder_of(tmp_path / "large", size=(100, 100))  # shown as small as the model saw its own
    shrunk = tmp_path / "shrunk"
    for path in pictures.rglob("*.png"):
        place = shrunk / path.relative_to(pictures)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((40, 40), Image.Resampling.BILINEAR).save(place)
    weights = tmp_path / "run" / "weights.safetensors"
    losses = [evaluate(weights, dataset=str(place), device="cpu")["loss"] for place in (pictures, shrunk)]
    assert losses[0] == losses[1]


def test_a_weights_file_without_upsampling_does_not_mention_it(cache: Path, tmp_path: Path) -> None:
    """So that the file is, byte for byte, what it was before there was any."""
    train(folder_of(tmp_path / "images", size=(40, 40)), tmp_path / "run", 40)
    weights = tmp_path / "run" / "weights.safetensors"
    assert read_info(weights).upsampling is None
    assert b"upsampling" not in weights.read_bytes()
