"""Near copies: the hash, the search for close hashes, and what is found among photographs."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cctkit.data.check.near_copies import MOST_BITS, agreement, dhashes, near_copies, pairs_within
from cctkit.data.preprocess import Preprocess

STORED = Preprocess(stored_size=(32, 32))


def scenes(number: int, *, seed: int = 0, side: int = 96) -> list[Image.Image]:
    """Smooth random pictures with a few edges: uint8 RGB, all different."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), 3)
        pixels = np.array(coarse)
        top, left = generator.integers(0, side // 2, 2)
        pixels[top : top + side // 3, left : left + side // 3] = generator.integers(0, 256, 3)
        found.append(Image.fromarray(pixels))
    return found


def stored(images: list[Image.Image]) -> Any:
    return np.stack([STORED.resize(np.asarray(image)) for image in images])


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_a_bit_of_the_hash_says_whether_a_cell_is_darker_than_its_right_neighbour() -> None:
    rising = np.tile(np.arange(9, dtype=np.uint8) * 20, (3, 8, 1))[None]  # (1, 3, 8, 9): brighter to the right
    assert dhashes(rising).tolist() == [2**64 - 1]
    assert dhashes(rising[..., ::-1]).tolist() == [0]
    one = np.zeros((1, 3, 8, 9), dtype=np.uint8)
    one[0, :, 4, 5] = 255  # the cell to its left is darker, and no other
    assert np.bitwise_count(dhashes(one)).tolist() == [1]


def test_green_counts_most_in_the_grey_of_the_hash() -> None:
    pixels = np.zeros((1, 3, 8, 9), dtype=np.uint8)
    pixels[0, 0, :, 0], pixels[0, 1, :, 1] = 100, 100  # red, then green of the same value
    assert np.bitwise_count(dhashes(pixels)).tolist() == [8]  # green is brighter in every row


@pytest.mark.parametrize("most_bits", [0, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_every_pair_of_close_hashes_is_found_and_no_other(seed: int, most_bits: int) -> None:
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**63, 60, dtype=np.uint64)
    for i in range(30):  # and hashes with some bits flipped
        flipped = generator.choice(64, int(generator.integers(0, 10)), replace=False)
        hashes[30 + i] = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0))
    pairs = [tuple(pair) for some in pairs_within(hashes, most_bits) for pair in some.tolist()]
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    assert sorted(pairs) == [(i, j) for i in range(60) for j in range(i + 1, 60) if bits[i, j] <= most_bits]


def test_equal_images_agree_fully_and_unrelated_ones_do_not() -> None:
    images = stored(scenes(20))
    assert agreement(images, images).tolist() == pytest.approx([1.0] * 20)
    assert agreement(images[:-1], images[1:]).max() < 0.8


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 75),
        lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
        lambda image: jpeg(image.resize((192, 192), Image.Resampling.BICUBIC), 85),
    ],
    ids=["re-encoded", "half the size", "twice the size, re-encoded"],
)
def test_re_encoded_and_resized_copies_are_found_and_nothing_else(change: Any) -> None:
    originals = scenes(40)
    images = stored([*originals, *map(change, originals[:20])])
    rows = np.arange(60) + 7  # rows of a larger data set
    groups = near_copies(rows, dhashes(images), lambda some: images[some - 7], lambda: None)
    wanted = [[i + 7, i + 47] for i in range(20)]
    assert all(group in wanted for group in groups)
    assert len(groups) >= 19


def test_copies_of_copies_are_one_group() -> None:
    first = scenes(1)[0]
    images = stored([first, *scenes(3, seed=1), jpeg(first, 90), jpeg(first, 60), jpeg(first, 50)])
    assert near_copies(np.arange(7), dhashes(images), lambda some: images[some], lambda: None) == [[0, 4, 5, 6]]


def test_a_different_image_of_the_same_hash_is_no_copy() -> None:
    images = stored(scenes(2))
    same = np.zeros(2, dtype=np.uint64)
    assert near_copies(np.arange(2), same, lambda some: images[some], lambda: None) == []


def test_no_image_has_no_copies() -> None:
    nothing = np.zeros(0, dtype=np.uint64)
    assert near_copies(np.zeros(0, dtype=np.int64), nothing, lambda _: np.zeros((0, 3, 32, 32), np.uint8), lambda: None) == []
    assert MOST_BITS < 8  # what `pairs_within` can find


def test_looking_for_copies_can_be_stopped() -> None:
    images = stored(scenes(2))

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        near_copies(np.arange(2), np.zeros(2, dtype=np.uint64), lambda some: images[some], stop)
