"""Splits never part copies of an image, and equal those of earlier versions if there are none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cctkit.config.settings import DataConfig
from cctkit.data.dataset import load_dataset
from cctkit.data.splits import Dataset
from cctkit.data.splitting import BY_FILE, BY_PIXELS, rule_of, stratified_split
from cctkit.errors import UserError
from tests.conftest import write_images

# As they were before copies were looked for: written down from that version.
GOLDEN = {
    0: (
        "cat/7.png cat/8.png dog/3.png owl/1.png owl/12.png owl/4.png",
        "cat/0.png cat/6.png dog/0.png owl/10.png owl/13.png owl/6.png",
    ),
    1: (
        "cat/1.png cat/2.png dog/5.png owl/10.png owl/2.png owl/3.png",
        "cat/4.png cat/7.png dog/0.png owl/0.png owl/1.png owl/5.png",
    ),
}


@pytest.mark.parametrize("seed", GOLDEN)
def test_a_folder_without_copies_is_split_as_in_earlier_versions(cache: Path, tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "images"
    write_images(folder, {"cat": 9, "dog": 6, "owl": 14}, size=(8, 8))
    dataset = load_dataset(DataConfig(dataset=str(folder), split_seed=seed, val_fraction=0.25))
    assert dataset.fingerprint == "sha256:3bd57729e784c82d105909a249386dea1d6c81a48d4ec19af97ac6d50dd1a752"
    assert dataset.val is not None
    assert dataset.test is not None
    assert (" ".join(dataset.val.ids()), " ".join(dataset.test.ids())) == GOLDEN[seed]
    assert len(dataset.train) == 29 - 12


def test_the_digits_are_split_as_in_earlier_versions(cache: Path) -> None:
    dataset = load_dataset(DataConfig(dataset="digits"))
    assert dataset.test is not None
    first = "digit/0002 digit/0008 digit/0012 digit/0015 digit/0020 digit/0026 digit/0034 digit/0038"
    assert " ".join(dataset.test.ids()[:8]) == first
    assert len(dataset.test) == 359


def folder_with_copies(folder: Path) -> Path:
    """Every image twice, in one class or in both, under other names and in another format."""
    write_images(folder, {"cat": 10, "dog": 10}, size=(8, 8))
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        other = "dog" if number % 4 == 0 else path.parent.name
        Image.open(path).save(folder / other / f"copy-{number}.bmp")
    return folder


def pixels_of(dataset: Dataset, name: str) -> set[bytes]:
    split = getattr(dataset, name)
    return {image.numpy().tobytes() for image in split.take(np.arange(len(split)))}


def straddles(dataset: Dataset) -> bool:
    train, val, test = (pixels_of(dataset, name) for name in ("train", "val", "test"))
    return bool(train & val or train & test or val & test)


def test_no_copies_straddle_the_split_unlike_by_the_earlier_rule(cache: Path, tmp_path: Path) -> None:
    folder = folder_with_copies(tmp_path / "images")
    for seed in range(5):
        config = DataConfig(dataset=str(folder), split_seed=seed, val_fraction=0.25)
        dataset = load_dataset(config)
        assert not straddles(dataset)
        assert dataset.split_rule == BY_PIXELS
        assert straddles(load_dataset(config, split_rule=BY_FILE))


def test_a_split_with_copies_depends_on_pixels_not_on_names(cache: Path, tmp_path: Path) -> None:
    folder = folder_with_copies(tmp_path / "images")
    before = load_dataset(DataConfig(dataset=str(folder), val_fraction=0.25))
    for i, path in enumerate(sorted(folder.rglob("*.*"), reverse=True)):
        path.rename(path.with_name(f"renamed-{i}{path.suffix}"))
    after = load_dataset(DataConfig(dataset=str(folder), val_fraction=0.25))
    for name in ("train", "val", "test"):
        assert pixels_of(before, name) == pixels_of(after, name)


def data_of(labels: Any, pixels: Any) -> Any:
    """A data set of which image i shows `pixels[i]`, in class `labels[i]`."""
    labels, pixels = np.asarray(labels), np.asarray(pixels, dtype=np.int64)
    heads = [hash((label, shown)) for label, shown in zip(labels.tolist(), pixels.tolist(), strict=True)]  # of ints: fixed
    names = tuple(f"class {i}" for i in range(labels.max() + 1))
    return SimpleNamespace(labels=labels, order=np.array(heads), class_names=names, pixel_digests=pixels)


def split(data: Any, share: float, seed: int, rule: int = BY_PIXELS) -> np.ndarray[Any, Any]:
    """Whether each image is in the second part."""
    rows = np.arange(len(data.labels))
    first, second = stratified_split(data, rows, share, (seed, 1), "here", rule=rule)
    assert np.array_equal(np.sort(np.concatenate([first, second])), rows)
    return np.isin(rows, second)


def random_data(seed: int) -> Any:
    """Of up to 8 classes; of the images some, or nearly all, have up to 5 copies, in their own class or anywhere."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(10, 60, generator.integers(2, 9))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pixels = generator.permutation(len(labels))
    for _ in range(generator.integers(1, 1 + len(labels) // 3)):
        i = generator.integers(len(labels))
        among = np.flatnonzero(labels == labels[i]) if generator.random() < 0.6 else np.arange(len(labels))
        pixels[generator.choice(among, min(len(among), generator.integers(1, 6)), replace=False)] = pixels[i]
    return data_of(labels, pixels)


@pytest.mark.parametrize("share", [0.2, 0.1, 0.5])
def test_random_data_is_split_without_straddling_copies_and_stratified(share: float) -> None:
    parted, off = 0, []
    for seed in range(100):
        data = random_data(seed)
        second = split(data, share, seed)
        taken = set(data.pixel_digests[second].tolist())
        assert taken.isdisjoint(data.pixel_digests[~second].tolist())
        by_file = split(data, share, seed, BY_FILE)
        parted += not set(data.pixel_digests[by_file].tolist()).isdisjoint(data.pixel_digests[~by_file].tolist())
        for label in range(len(data.class_names)):
            part = second[data.labels == label]
            assert 0 < part.sum() < len(part)
            off.append(abs(part.sum() - max(1, round(share * len(part)))))
    assert parted > 90
    assert np.mean(np.array(off) <= 1) > 0.85
    assert max(off) <= 10


def test_without_copies_both_rules_draw_the_same() -> None:
    for seed in range(20):
        data = random_data(seed)
        alone = data_of(data.labels, np.random.default_rng(seed).permutation(len(data.labels)))
        assert np.array_equal(split(alone, 0.2, seed), split(alone, 0.2, seed, BY_FILE))


def test_copies_in_one_class_change_nothing_for_the_others() -> None:
    labels = np.repeat([0, 1, 2], 20)
    pixels = np.arange(60)
    pixels[25:35] = 25  # half of class 1
    data = data_of(labels, pixels)
    before, after = split(data, 0.2, 3, BY_FILE), split(data, 0.2, 3)
    assert np.array_equal(before[labels != 1], after[labels != 1])
    assert after[25:35].all() == after[25:35].any()
    assert after[labels == 1].sum() == 4


def test_a_small_class_of_copies_of_a_large_one_is_in_both_splits() -> None:
    """As where the large class, which is drawn last, decided, one time in three would leave the small one without a test."""
    pixels = [*range(100), *range(5)]
    data = data_of([0] * 100 + [1] * 5, pixels)
    for seed in range(50):
        second = split(data, 0.2, seed)
        assert second[100:].sum() == 1
        assert second[:100].sum() == 20


def test_a_class_whose_groups_are_all_decided_still_gets_an_image() -> None:
    """Classes of 4, 4 and 6 images; the last has 3 of each of the others."""
    data = data_of([0] * 4 + [1] * 4 + [2] * 6, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 4, 5, 6])
    for seed in range(100):
        second = split(data, 0.25, seed)
        assert not set(data.pixel_digests[second].tolist()) & set(data.pixel_digests[~second].tolist())
        for label in range(3):
            assert 0 < second[data.labels == label].sum() < (data.labels == label).sum()


def test_a_class_of_copies_only_is_an_error_that_names_it(cache: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"cat": 5, "dog": 5}, size=(8, 8))
    for path in (tmp_path / "images" / "dog").iterdir():
        Image.new("RGB", (8, 8), "red").save(path)
    with pytest.raises(UserError, match=r"class 'dog' cannot be split: its images are copies") as caught:
        load_dataset(DataConfig(dataset=str(tmp_path / "images")))
    assert caught.value.exit_code == 2
    assert len(load_dataset(DataConfig(dataset=str(tmp_path / "images")), split_rule=BY_FILE).train) == 8


@pytest.mark.parametrize("rule", [0, 3, True, "2", None, 1.0])
def test_an_unsupported_split_rule_is_refused(rule: object) -> None:
    with pytest.raises(UserError, match="rule"):
        rule_of({"split_rule": rule}, "here")
    assert (rule_of({}, "here"), rule_of({"split_rule": 2}, "here")) == (1, 2)
