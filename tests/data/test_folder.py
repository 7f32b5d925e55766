"""A folder of images becomes a data set, or an error that says what to fix."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.splits import Dataset
from cctkit.errors import UserError
from tests.conftest import write_images


def load(folder: Path, **config: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder), **{"image_size": (8, 8)} | config))


def test_a_flat_folder_is_split_80_to_20_per_class_and_reproducibly(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 20, "dog": 10})
    first, again = load(tmp_path / "a"), load(tmp_path / "a")
    assert first.class_names == ("cat", "dog")
    assert np.bincount(first.train.labels).tolist() == [16, 8]
    assert np.bincount(first.test.labels).tolist() == [4, 2]
    assert first.test.ids() == again.test.ids()
    assert not set(first.test.ids()) & set(first.train.ids())
    assert load(tmp_path / "a", split_seed=1).test.ids() != first.test.ids()


@pytest.mark.parametrize("name", ["cifar100", "digits"])
def test_a_folder_named_like_a_data_set_is_not_that_data_set(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / name, {"cat": 4, "dog": 4})
    data = load(tmp_path / name)
    assert (data.name, data.named) == (f"{name}-folder", False)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_the_only_folder_beside_train_is_the_test_split(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "train", {"cat": 4, "dog": 4})
    write_images(tmp_path / name, {"cat": 2, "dog": 3})
    data = load(tmp_path)
    assert (len(data.train), data.val, len(data.test)) == (8, None, 5)


def test_val_and_test_folders_are_separate_splits(tmp_path: Path) -> None:
    for side, number in (("train", 4), ("val", 2), ("test", 3)):
        write_images(tmp_path / side, {"cat": number, "dog": number})
    data = load(tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 6)
    with pytest.raises(UserError, match="already has a validation folder"):
        load(tmp_path, val_fraction=0.1)


def test_the_validation_fraction_is_taken_from_train_only(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 20, "dog": 10})
    write_images(tmp_path / "test", {"cat": 2, "dog": 2})
    data = load(tmp_path, val_fraction=0.1)
    assert np.bincount(data.val.labels).tolist() == [2, 1]
    assert (len(data.train), len(data.test)) == (27, 4)


def test_hidden_files_other_files_and_nested_folders_are_told_apart(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 4, "dog": 4})
    write_images(tmp_path / "cat", {"more": 2})
    write_images(tmp_path, {".ipynb_checkpoints": 3, "__MACOSX": 3})
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "cat" / "._0.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    os.symlink(tmp_path, tmp_path / "dog" / "loop")
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    ids = data.train.ids() + data.test.ids()
    assert "cat/more/1.png" in ids
    assert sum(name.startswith("cat/") for name in ids) == 6


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({}, "no image"),
        ({"": {"cat": 3}}, "only one class"),
        ({"": {"cat": 3, "dog": 0}}, "1 class without images: 'dog'"),
        ({"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 0}}, "1 class without images in test: 'dog'"),
        ({"train": {"cat": 2, "dog": 2}, "test": {"cat": 2}}, "1 class missing in test but present in another split: 'dog'"),
        ({"train": {"cat": 2}, "test": {"cat": 2, "dog": 2}}, "1 class missing in train but present in another split: 'dog'"),
        (
            {"train": {"cat": 2, "dog": 2}, "val": {"cat": 2}, "test": {"cat": 2, "dog": 2}},
            "1 class missing in val but present in another split: 'dog'",
        ),
        ({"test": {"cat": 2, "dog": 2}, "val": {"cat": 2, "dog": 2}}, "no train/"),
        ({"train": {"cat": 2, "dog": 2}, "tset": {"cat": 2, "dog": 2}}, "neither splits nor classes"),
        ({"": {"cat": 3, "dog": 1}}, "'dog' has 1 image to split"),
        ({"train": {"a": 1, "b": 1}, "val": {"a": 1, "b": 1}, "valid": {"a": 1, "b": 1}}, "val/ and valid/ are the same split"),
    ],
)
def test_an_unusable_folder_is_an_error_that_names_the_fault(
    tmp_path: Path, sides: dict[str, dict[str, int]], words: str
) -> None:
    for side, classes in sides.items():
        write_images(tmp_path / side, classes)
    with pytest.raises(UserError, match=words):
        load(tmp_path)


def test_a_broken_image_is_an_error_or_is_skipped_and_listed(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "cat" / "text.png").write_text("this is no image")
    whole = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "torn.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"2 broken images: cat/text\.png.*dog/torn\.png") as caught:
        load(tmp_path)
    assert "--skip-bad" in str(caught.value.remedy)
    data = load(tmp_path, skip_bad=True)
    assert len(data.train) + len(data.test) == 10
    assert [line.split(":")[0] for line in data.skipped] == ["cat/text.png", "dog/torn.png"]


def test_another_pixel_limit_makes_another_packed_file(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 5, "dog": 5})
    Image.new("L", (20, 20)).save(tmp_path / "cat" / "large.png")
    few = load(tmp_path, skip_bad=True, max_pixels=399)
    assert [line.partition(":")[0] for line in few.skipped] == ["cat/large.png"]
    assert load(tmp_path, skip_bad=True, max_pixels=400).skipped == ()
    assert load(tmp_path).fingerprint == load(tmp_path, skip_bad=True).fingerprint != few.fingerprint


def test_an_image_of_another_shape_is_cropped_or_squashed(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255  # the middle third is white
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / name / "0.png")
    cropped = load(tmp_path).train.take(np.array([0]))
    squashed = load(tmp_path, resize_mode="squash").train.take(np.array([0]))
    assert cropped.min() == 255
    assert squashed.min() == 0
    assert squashed.shape == (1, 3, 8, 8)


def test_class_names_with_control_characters_are_escaped_when_printed(tmp_path: Path) -> None:
    names = ["\x1b[31mred", "[bold]", "a\nb", "\u202eevil", "=cmd()", "<script>"]
    write_images(tmp_path, dict.fromkeys(names, 3))
    data = load(tmp_path)
    assert sorted(names) == list(data.class_names)
    (tmp_path / "\x1b[31mred" / "x.png").write_text("broken")
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert "\x1b" not in str(caught.value)
    assert "\\x1b" in str(caught.value)


def test_statistics_are_those_of_the_training_pixels(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 10, "dog": 10}, size=(8, 8))
    data = load(tmp_path)
    pixels = data.train.take(np.arange(len(data.train))).double() / 255
    torch.testing.assert_close(torch.tensor(data.mean).double(), pixels.mean((0, 2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(data.std).double(), pixels.std((0, 2, 3), unbiased=False), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["nowhere", "", "\0", "x" * 5000, "a\x1bb"])
def test_an_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=r"no such folder|a NUL character") as caught:
        load_dataset(DataConfig(dataset=name))
    assert str(caught.value).isprintable()


def test_a_mistyped_name_is_corrected() -> None:
    with pytest.raises(UserError, match="did you mean cifar100"):
        load_dataset(DataConfig(dataset="cifar-100"))


def test_classes_may_be_named_like_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"train": 5, "bus": 5})
    write_images(tmp_path / "b", {"valid": 5, "invalid": 5})
    assert load(tmp_path / "a").class_names == ("bus", "train")
    assert load(tmp_path / "b").class_names == ("invalid", "valid")


def test_a_train_folder_alone_is_split(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 10, "dog": 5})
    (tmp_path / "annotations").mkdir()
    data = load(tmp_path)
    assert (len(data.train), len(data.test), data.class_names) == (12, 3, ("cat", "dog"))


def test_the_split_depends_on_pixels_not_on_names_times_or_location(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 20, "dog": 10}, size=(8, 8))
    for path in (tmp_path / "a").rglob("*.png"):
        target = tmp_path / "b" / path.parent.name / f"renamed-{99 - int(path.stem)}.bmp"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    first, second = load(tmp_path / "a", val_fraction=0.25), load(tmp_path / "b", val_fraction=0.25)
    for name in ("train", "val", "test"):
        parts = [getattr(data, name).take(np.arange(len(getattr(data, name)))) for data in (first, second)]
        assert {image.numpy().tobytes() for image in parts[0]} == {image.numpy().tobytes() for image in parts[1]}


def test_irregular_files_are_broken_images(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 5, "dog": 5})
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    os.symlink("/nowhere", tmp_path / "cat" / "link.png")
    os.symlink("/dev/zero", tmp_path / "cat" / "zeros.png")
    (tmp_path / "dog" / "empty.png").write_bytes(b"")
    data = load(tmp_path, skip_bad=True)
    assert data.skipped == (
        "cat/link.png: No such file or directory",
        "cat/pipe.png: not a regular file",
        "cat/zeros.png: not a regular file",
        "dog/empty.png: not an image in a supported format",
    )


def test_folders_reached_by_many_links_are_read_once(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"cat": 4, "dog": 4})
    write_images(tmp_path, {"more": 4})
    for level in range(30):  # two links at each level: 2^30 paths
        (tmp_path / f"level{level}").mkdir()
        for name in ("a", "b"):
            os.symlink(tmp_path / (f"level{level + 1}" if level < 29 else "more"), tmp_path / f"level{level}" / name)
    os.symlink(tmp_path / "level0", tmp_path / "images" / "dog" / "links")
    data = load(tmp_path / "images")
    assert np.bincount(np.concatenate([data.train.labels, data.test.labels])).tolist() == [4, 8]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 2})
    scan = os.scandir

    def denied(path: Any) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"1 folder cannot be read: dog: Permission denied"):
        load(tmp_path)


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 4, "dog": 4})
    odd = os.fsdecode(b"\xff\xfe.png")
    try:
        os.rename(tmp_path / "cat" / "0.png", os.path.join(tmp_path, "cat", odd))
    except OSError:
        pytest.skip("this file system takes only text")
    data = load(tmp_path)
    assert f"cat/{odd}" in data.train.ids() + data.test.ids()


@pytest.mark.parametrize("size", [(1, 1), (7, 1000), (1000, 7), (49, 3)])
def test_images_of_any_shape_are_resized(tmp_path: Path, size: tuple[int, int]) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 2}, size=size)
    for mode in ("crop", "squash"):
        assert load(tmp_path, resize_mode=mode, image_size=(11, 9)).train.take(np.array([0])).shape == (1, 3, 11, 9)


@pytest.mark.slow
@pytest.mark.skipif("CCTKIT_CIFAR100" not in os.environ, reason="CCTKIT_CIFAR100 names no folder of its images")
def test_a_folder_of_cifar100_is_cifar100() -> None:
    data = load_dataset(DataConfig(dataset=os.environ["CCTKIT_CIFAR100"]))
    assert (data.name, data.named, len(data.train), len(data.test)) == ("cifar100", True, 50_000, 10_000)
    pixels = data.train.take(np.arange(0, 50_000, 10)).double() / 255
    torch.testing.assert_close(torch.tensor(data.mean).double(), pixels.mean((0, 2, 3)), atol=5e-3, rtol=0)
