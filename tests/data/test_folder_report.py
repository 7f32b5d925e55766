"""The report on a folder before training."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.report.findings import FaultsError, Finding
from cctkit.data.splits import Dataset
from cctkit.errors import StoppedError, UserError
from cctkit.text import wrapped
from tests.conftest import write_images
from tests.data.messy import messy_folder

MESSY = """\
data: {place}
  images: 88 train, 15 test; Train/ is train, Testing/ is test
  classes: 3, of 4 ('bird') to 61 images ('cat'), not counting test
  sizes: 320x240 (78), 160x120 (6), 80x60 (4) and 11 more; from 80x60 to
    320x240, width x height
  preprocessing: center-cropped and downsampled to 32x32; --image-size 128 keeps
    more
  warning: class imbalance, 15 to 1: the accuracy can be high even if small
    classes are not recognised
  warning: 3 images with 16 bits but no value above 4,095 of 65,535: nearly
    black; rescale them to 0 to 65,535, or save them with 8 bits:
    Train/dog/scan0.tif, Train/dog/scan1.tif, Train/dog/scan2.tif
  warning: 8 images in unsupported formats (.heic 7, .jp2 1); convert them to
    PNG or JPEG: Train/cat/phone0.heic, Train/cat/phone1.heic,
    Train/cat/phone2.heic, Train/cat/phone3.heic, ...
  warning: 2 links not followed, to a parent folder or another class; copy the
    images, or remove the link: Train/cat/all, Train/cat/more
  warning: 1 image outside the class folders; move images into the folder of
    their class: Train/lost.png
  ignored: 4 broken images skipped
    Train/cat/cut.jpg: image file is truncated (9 bytes not processed)
    Train/cat/deep.tif: pixel values of 70,000 to 70,000, expected 0 to 65,535
    Train/cat/short.png: image file is truncated (it ends before its last row)
    Train/dog/text.png: not an image in a supported format
  ignored: 1 file with several pages or frames: only the first is read:
    Train/cat/stack.tif
  ignored: 1 folder beside the splits: annotations
  ignored: 2 other files (.csv 1, .txt 1): Train/labels.csv, Train/readme.txt
  ignored: 1 hidden file or folder: Train/.hidden"""


def load(folder: Path, **config: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder), **config))


def lines(dataset: Dataset) -> list[str]:
    return dataset.report.lines()


def line(dataset: Dataset, label: str) -> str:
    (found,) = [each for each in lines(dataset) if each.startswith(f"  {label}: ")]
    return found.removeprefix(f"  {label}: ")


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return messy_folder(tmp_path_factory.mktemp("messy") / "photos")


def test_a_messy_folder_is_reported_at_80_columns_and_the_same_from_the_cache(messy: Path) -> None:
    for _ in range(2):
        told = wrapped("\n".join(lines(load(messy, skip_bad=True))), 80, further="  ")
        assert told.splitlines()[1:] == MESSY.splitlines()[1:]


def test_a_report_counts_what_it_finds_by_kind_and_the_images_by_split(messy: Path) -> None:
    report = load(messy, skip_bad=True).report
    assert {finding.kind: finding.number for finding in report.findings} == {
        "broken": 4,
        "shallow": 3,
        "pages": 1,
        "unread_format": 8,
        "link": 2,
        "outside": 1,
        "beside": 1,
        "other_file": 2,
        "hidden": 1,
    }
    assert report.parts == {"train": (4, 61, 23), "test": (2, 8, 5)}


def test_the_report_on_a_streamed_folder_uses_a_sample(messy: Path) -> None:
    found = lines(load(messy, stream=True))
    assert any("in a sample of " in each for each in found)
    assert any("1 file with several pages" in each for each in found)


def test_all_faults_of_a_folder_are_reported_at_once(tmp_path: Path) -> None:
    folder = messy_folder(tmp_path / "photos")
    shutil.rmtree(folder / "Testing" / "bird")
    (folder / "Train" / "empty").mkdir()
    for i in range(25):
        (folder / "Train" / "bird" / f"bad{i:02}.png").write_bytes(b"")
    said: list[str] = []
    with pytest.raises(FaultsError) as caught:
        load_dataset(DataConfig(dataset=str(folder)), notify=said.append)
    message = str(caught.value)
    assert "1 class without images in train: 'empty'" in message
    assert "2 classes missing in test but present in another split: 'bird'; 'empty'" in message
    assert "29 broken images: Train/bird/bad00.png: not an image in a supported format; " in message
    assert "\n" not in message
    text = "\n".join(said)
    assert text.count("Train/bird/bad") == 20
    assert "    and 9 more" in text
    assert "    'empty'" in text


def test_a_class_of_unsupported_images_is_reported_with_the_reason(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 4, "dog": 4, "fox": 0})
    (tmp_path / "fox" / "a.heic").write_bytes(b"x")
    said: list[str] = []
    with pytest.raises(FaultsError, match="1 class without images: 'fox'"):
        load_dataset(DataConfig(dataset=str(tmp_path)), notify=said.append)
    assert "1 image in unsupported formats (.heic 1); convert them to PNG or JPEG: fox/a.heic" in "\n".join(said)


def test_with_other_faults_broken_images_are_searched_for_at_most_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "train", {"cat": 4, "dog": 4})
    write_images(tmp_path / "test", {"cat": 4})
    (tmp_path / "test" / "cat" / "bad.png").write_bytes(b"")
    where = DataConfig(dataset=str(tmp_path))
    with pytest.raises(FaultsError, match=r"1 class missing in test .* 1 broken image: test/cat/bad\.png"):
        load_dataset(where)
    monkeypatch.setattr("cctkit.data.report.faults._LONGEST_S", -1.0)
    with pytest.raises(FaultsError) as caught:
        load_dataset(where)
    assert [fault.kind for fault in caught.value.faults] == ["missing_class"]

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("reading images"):
            raise StoppedError(2)

    with pytest.raises(StoppedError, match=r"stopped; found so far in .*: 1 class missing in test"):
        load_dataset(where, progress=stop)


def test_faults_can_be_pickled() -> None:
    faults = [Finding.of("broken", "fault", "1 broken image", ["a"], remedy="fix it")]
    error = pickle.loads(pickle.dumps(FaultsError(faults, "here")))
    assert (error.what, error.where, error.remedy, error.faults) == ("1 broken image: a", "here", "fix it", tuple(faults))


def test_a_link_to_a_parent_folder_or_another_class_is_not_followed(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 4, "dog": 6})
    alone = load(tmp_path / "a")
    os.symlink(tmp_path / "a", tmp_path / "a" / "cat" / "up")
    os.symlink(tmp_path / "a" / "dog", tmp_path / "a" / "cat" / "dogs")
    os.symlink(tmp_path / "a" / "dog", tmp_path / "a" / "aaa")  # though it comes before the class that it leads to
    os.symlink(tmp_path, tmp_path / "a" / "everything")
    os.symlink(tmp_path / "a" / "cat", tmp_path / "a" / "cat" / "itself")
    os.symlink("loop", tmp_path / "a" / "cat" / "loop")
    data = load(tmp_path / "a")
    assert data.class_names == ("cat", "dog")
    assert data.fingerprint == alone.fingerprint
    (found,) = [finding for finding in data.report.findings if finding.kind == "link"]
    assert (found.number, found.names) == (5, ("aaa", "everything", "cat/dogs", "cat/itself", "cat/up"))


def test_links_to_folders_elsewhere_are_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "store", {"x": 5, "y": 5})
    for part in ("train", "test"):
        (tmp_path / "a" / part).mkdir(parents=True)
        for name, target in (("cat", "x"), ("dog", "y")):
            os.symlink(tmp_path / "store" / target, tmp_path / "a" / part / name)
    data = load(tmp_path / "a")
    assert (len(data.train), len(data.test)) == (10, 10)
    assert not data.report.findings


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("training", "validation", "testing"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("Training Images", "Dev Images", "Evaluation"),
    ],
)
def test_split_folders_may_have_any_usual_spelling(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_images(tmp_path / name, {"cat": 4, "dog": 4})
    (tmp_path / "docs").mkdir()
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), data.val is not None, data.split_made) == (8, len(names) == 3, False)
    assert f"{names[0]}/ is train" in line(data, "images")


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    write_images(tmp_path, {"Train": 4, "Bus": 4, "Car": 4})
    write_images(tmp_path / "Train", {"steam": 2})
    assert load(tmp_path).class_names == ("Bus", "Car", "Train")


@pytest.mark.parametrize("names", [("Train", "Test"), ("train", "test"), ("training", "Validation", "testing")])
def test_splits_without_class_folders_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_images(tmp_path, dict.fromkeys(names, 4))
    with pytest.raises(UserError, match="has the name of a split, but images and no class folders"):
        load(tmp_path)


def test_a_flat_test_folder_beside_train_is_not_a_class(tmp_path: Path) -> None:
    write_images(tmp_path, {"Test": 4})
    write_images(tmp_path / "Train", {"cat": 4, "dog": 4})
    with pytest.raises(UserError, match="Train/ has folders and Test/ has images"):
        load(tmp_path)
    write_images(tmp_path / "Valid", {"cat": 4, "dog": 4})
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert "1 folder beside the splits: Test" in "\n".join(lines(data))


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("Train", "training", "Test"):
        write_images(tmp_path / name, {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match="Train/ and training/ are the same split"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("size", "config", "words"),
    [
        ((40, 30), {}, "center-cropped and upsampled to 32x32"),
        ((40, 30), {"resize_mode": "squash"}, "squashed and resized to 32x32"),
        ((90, 60), {}, "center-cropped and downsampled to 32x32"),
        ((64, 64), {}, "downsampled to 32x32; --image-size 64 keeps more"),
        ((64, 64), {"image_size": (32, 32)}, "downsampled to 32x32"),
        ((32, 32), {}, "32x32, not resized"),
        ((32, 32), {"image_size": (64, 64)}, "32x32, not resized, then upsampled to 64x64"),
        ((8, 8), {}, "upsampled to 32x32"),
        ((48, 32), {"image_size": (16, 24)}, "downsampled to 16x24 (height x width)"),
    ],
)
def test_the_report_says_how_images_are_resized(tmp_path: Path, size: tuple[int, int], config: Any, words: str) -> None:
    write_images(tmp_path, {"cat": 5, "dog": 5}, size=size)
    data = load(tmp_path, **config)
    assert line(data, "preprocessing") == words
    assert line(data, "sizes") == f"all {size[0]}x{size[1]}"


def test_a_class_imbalance_of_ten_to_one_is_a_warning(tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 2, "dog": 19})
    write_images(tmp_path / "b", {"cat": 2, "dog": 20})
    assert not any("class imbalance" in each for each in lines(load(tmp_path / "a")))
    assert any("class imbalance, 10 to 1" in each for each in lines(load(tmp_path / "b")))


def test_the_sizes_of_classes_are_without_test_images_that_were_given(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "train", {"cat": 5, "dog": 5})
    write_images(tmp_path / "a" / "test", {"cat": 2, "dog": 2}, seed=1)
    write_images(tmp_path / "b", {"cat": 5, "dog": 5})
    assert line(load(tmp_path / "a"), "classes") == "2, each of 5 images, not counting test"
    assert line(load(tmp_path / "b"), "classes") == "2, each of 5 images"


def test_16_bit_images_that_use_their_range_are_no_warning(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 3, "dog": 3})
    for value in (20_000, 65_535, 100):
        Image.fromarray(np.full((16, 16), value, dtype=np.uint16)).save(tmp_path / "cat" / f"{value}.png")
    assert not load(tmp_path).report.findings


def test_the_report_on_a_named_data_set_is_one_line() -> None:
    (told,) = lines(load_dataset(DataConfig(dataset="digits", image_size=(8, 8))))
    assert told.startswith("data: digits, 1,438 train, 359 test (stratified split); classes: 10, of 174")
