"""Copies in two splits are found by their pixels, counted and named; the list of training images."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from cctkit.config.settings import DataConfig
from cctkit.data.copies import pixel_digest
from cctkit.data.dataset import load_dataset
from cctkit.data.images import pack_dataset
from cctkit.data.overlap import copies_notice, copy_figures, overlap, read_seen, seen_file, seen_in_training
from cctkit.data.splits import Dataset
from cctkit.errors import UserError
from tests.conftest import write_images
from tests.data.packs import without_checksums
from tests.mutants import MANY, mutated_bytes, refused_or_read


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """train/, val/ and test/: three test images are in train too, one of them under another class, one of them twice."""
    folder = tmp_path / "images"
    for seed, side in enumerate(("train", "val", "test")):
        write_images(folder / side, {"cat": 4, "dog": 4}, seed=seed)
    for source, target in (
        ("train/cat/1.png", "test/cat/0.bmp"),
        ("train/cat/2.png", "test/dog/1.bmp"),
        ("train/dog/3.png", "test/dog/2.bmp"),
        ("train/dog/3.png", "train/cat/z.bmp"),
        ("val/dog/0.png", "test/dog/3.bmp"),
    ):
        Image.open(folder / source).save(folder / target)
        folder.joinpath(target).with_suffix(".png").unlink(missing_ok=True)
    return folder


def load(folder: Path, **config: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(folder), **config))


def test_copies_in_two_splits_are_found_whatever_their_class_and_format(cache: Path, parts: Path) -> None:
    dataset = load(parts)
    assert dataset.test is not None
    found = overlap(dataset.test, dataset.train)
    assert found is not None
    ids, there = dataset.test.ids(), dataset.train.ids()
    assert [(ids[i], there[j]) for i, j in zip(found.positions, found.there, strict=True)] == [
        ("test/cat/0.bmp", "train/cat/1.png"),
        ("test/dog/1.bmp", "train/cat/2.png"),
        ("test/dog/2.bmp", "train/dog/3.png"),  # not train/cat/z.bmp: one of its own class is there
    ]
    assert found.other_class.tolist() == [False, True, False]


def test_the_notice_before_training_counts_copies_and_names_the_first(cache: Path, parts: Path) -> None:
    assert copies_notice(load(parts)) == (
        "3 of the 8 test images are in train too, 1 under another class: test/cat/0.bmp is train/cat/1.png, "
        "test/dog/1.bmp is train/cat/2.png, test/dog/2.bmp is train/dog/3.png\n"
        "1 of the 8 test images is in val too: test/dog/3.bmp is val/dog/0.png"
    )


def test_without_copies_there_is_no_notice(cache: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 5, "dog": 5})
    assert copies_notice(load(tmp_path / "a")) is None
    assert copies_notice(load_dataset(DataConfig(dataset="digits", val_fraction=0.1))) is None


def test_copies_that_the_split_keeps_together_are_counted(cache: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 5, "dog": 5})
    Image.open(tmp_path / "a" / "cat" / "0.png").save(tmp_path / "a" / "cat" / "copy.bmp")
    assert copies_notice(load(tmp_path / "a")) == "1 of the 11 images is a copy of another; copies are kept in one split"


def test_the_notice_says_if_copies_cannot_be_checked(cache: Path, parts: Path) -> None:
    streamed = load(parts, stream=True)
    unknown = "copies of images in several splits: not checked, because "
    assert copies_notice(streamed) == unknown + "a streamed folder is not read before training"
    pack_dataset(DataConfig(dataset=str(parts)), parts / "packed.safetensors")
    old = load(without_checksums(parts / "packed.safetensors"))
    assert copies_notice(old) == unknown + "an earlier version packed the file"
    for dataset in (streamed, old):
        assert dataset.test is not None
        figures = copy_figures(dataset.test, dataset.train, np.ones(8, dtype=bool))
        assert set(figures.values()) == {None}
        assert {"copies_in_train", "top1_percent_without_copies"} <= figures.keys()
        assert seen_file(dataset.train) is None


def test_an_older_packed_file_is_split_by_the_earlier_rule_only(cache: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "a", {"cat": 5, "dog": 5})
    pack_dataset(DataConfig(dataset=str(tmp_path / "a")), tmp_path / "packed.safetensors")
    packed = without_checksums(tmp_path / "packed.safetensors")
    old, new = load(packed), load(tmp_path / "a")
    assert old.test is not None
    assert new.test is not None
    assert (old.split_rule, new.split_rule) == (1, 2)
    assert old.test.ids() == new.test.ids()
    with pytest.raises(UserError, match="pack them again"):
        load_dataset(DataConfig(dataset=str(packed)), split_rule=2)


def test_the_accuracy_without_copies_is_that_of_the_other_images(cache: Path, parts: Path) -> None:
    dataset = load(parts)
    assert dataset.test is not None
    is_correct = np.array([True, True, False, False, True, True, False, False])  # 0, 5 and 6 are copies
    figures = copy_figures(dataset.test, dataset.train, is_correct)
    assert figures["copies_in_train"] == 3
    assert figures["copies_of_another_class"] == 1
    assert figures["top1_percent_without_copies"] == 40.0
    assert figures["copies"][0] == {"image": "test/cat/0.bmp", "in_train": "train/cat/1.png"}
    copies = dataset.test.only(np.array([0, 5, 6]))
    assert copy_figures(copies, dataset.train, is_correct[:3])["top1_percent_without_copies"] is None


def test_the_pixel_digest_covers_shape_and_pixels_and_never_changes() -> None:
    """By hand: the SHA-256 of `[2, 1]` and of six bytes begins with 8 bytes, read as a little-endian number."""
    import hashlib

    pixels = np.arange(6, dtype=np.uint8).reshape(2, 1, 3)
    expected = struct.unpack("<q", hashlib.sha256(b"[2, 1]" + bytes(range(6))).digest()[:8])[0]
    assert pixel_digest(pixels) == expected
    assert pixel_digest(pixels.reshape(1, 2, 3)) != expected
    assert pixel_digest(np.asfortranarray(pixels)) == expected


def test_training_images_are_stored_and_found_in_another_data_set(cache: Path, parts: Path, tmp_path: Path) -> None:
    dataset = load(parts)
    text = seen_file(dataset.train)
    assert text is not None
    (tmp_path / "seen.safetensors").write_bytes(text)
    assert len(text) < 8 * 8 + 400  # nine files, of which two show the same
    seen = read_seen(tmp_path / "seen.safetensors")
    for split, expected in ((dataset.test, [0, 5, 6]), (dataset.val, []), (dataset.train, range(9))):
        assert split is not None
        found = seen_in_training(split, seen)
        assert found is not None
        assert found.tolist() == list(expected)
        assert seen_in_training(split, None) is None
    assert read_seen(tmp_path / "nothing.safetensors") is None


def test_a_damaged_list_of_training_images_is_refused(cache: Path, parts: Path, tmp_path: Path) -> None:
    text = seen_file(load(parts).train)
    assert text is not None
    path = tmp_path / "seen.safetensors"
    path.write_bytes(text[:-1] + bytes([text[-1] ^ 1]))
    with pytest.raises(UserError, match=r"trained on is damaged.*remove it"):
        read_seen(path)

    @MANY
    @given(mutated_bytes(text))
    def never_other_digests(mutant: bytes) -> None:
        path.write_bytes(mutant)
        refused_or_read(lambda: read_seen(path))

    never_other_digests()
