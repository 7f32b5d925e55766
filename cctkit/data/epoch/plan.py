"""The plan of an epoch: every random draw of its data, by position, as a function of the seed and the epoch."""

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.config.settings import AugmentConfig
from cctkit.config.size import Size
from cctkit.data.epoch.balance import balanced_order

Array = np.ndarray[Any, Any]

SUB_POLICIES = 25
RAND_OPERATIONS = 15
_RAND_MAGNITUDE, _RAND_STD = 9.0, 0.5
_CROP_RATIO = (3 / 4, 4 / 3)
_ERASE_SCALE, _ERASE_RATIO = (0.02, 1 / 3), (0.3, 3.3)
_TRIES = 10
_PIECE = 8192  # positions drawn at a time, so that what a draw needs on its way does not grow with the epoch

# One stream of draws for each purpose, so that switching one on does not change the others.
_ORDER, _POLICY, _CROP, _FLIP, _MIX, _ERASE, _POLICY_APPLIED, _MIX_APPLIED, _BALANCED_ORDER = range(9)
_NEVER = 2.0  # a coin above every probability


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mix:
    """The draws of mixup and cutmix, one per batch.

    lam: float32 (batches,), weight of an image against its partner.
    boxes: int16 (batches, 4), top, left, height and width of cutmix's box, height 0 for mixup.
    """

    batch_size: int
    lam: Array
    boxes: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpochPlan:
    """The random draws of an epoch, as arrays over its N positions; None if the configuration has the step off.

    order: int32 (N,), the image at each position.
    config, batch_size: what the plan was drawn for.
    size: (height, width) of the augmented images; a resized crop resizes to it.
    policy: uint8 (N,), AutoAugment's sub-policy.
    operations, levels: uint8 (N, 2), RandAugment's operations and their magnitudes in tenths.
    coins: float32 (N, 2), uniform in [0, 1), or 2 if the image is left as it is; an operation is applied if its coin is at
        most its probability.
    signs: bool (N, 2), whether the magnitude is negative.
    box: int16 (N, 4), top, left, height and width of the crop, in the padded image if it is padded.
    flip: bool (N,).
    erase_box: int16 (N, 4), height 0 for none.
    noise_seed: int64 (N,), seed of the noise in `erase_box`.
    mix: mixup and cutmix of all batches.
    places: int64 (N,), the positions of a selection; None: consecutive.
    """

    order: Array
    config: AugmentConfig
    batch_size: int
    size: Size | None = None
    policy: Array | None = None
    operations: Array | None = None
    levels: Array | None = None
    coins: Array | None = None
    signs: Array | None = None
    box: Array | None = None
    flip: Array | None = None
    erase_box: Array | None = None
    noise_seed: Array | None = None
    mix: Mix | None = None
    places: Array | None = None

    def __len__(self) -> int:
        return len(self.order)

    @property
    def lam(self) -> Array | None:
        """float32 (N,): weight of an image against its partner."""
        return None if self.mix is None else self.mix.lam[self._batch]

    @property
    def mix_box(self) -> Array | None:
        """int16 (N, 4): top, left, height and width that cutmix takes from the partner, height 0 for mixup."""
        return None if self.mix is None else self.mix.boxes[self._batch]

    @property
    def _position(self) -> Array:
        return np.arange(len(self)) if self.places is None else self.places

    @property
    def _batch(self) -> Array:
        assert self.mix is not None
        return self._position // self.mix.batch_size

    def at(self, rows: Array) -> "EpochPlan":
        """The plan of these positions, in ascending order: a chunk of the epoch, or one rank's share of it."""
        arrays: dict[str, Any] = {
            item.name: None if (array := getattr(self, item.name)) is None else array[rows]
            for item in dataclasses.fields(self)
            if item.name not in ("config", "batch_size", "size", "places", "mix")
        }
        return dataclasses.replace(self, **arrays, places=self._position[rows])

    @classmethod
    def draw(
        cls,
        *,
        seed: int,
        epoch: int,
        num_images: int,
        batch_size: int,
        image_size: Size,
        config: AugmentConfig,
        read_size: Size | None = None,
        labels: Array | None = None,
        balanced_sampling: float | None = None,
    ) -> "EpochPlan":
        """The plan of one epoch.

        image_size: of the augmented images.
        read_size: of those that a resized crop is taken from, where they are larger.
        labels: int64 (N,), which only balanced sampling needs.
        balanced_sampling: its power, see `balanced_order`; None: every image once.
        """

        def stream(purpose: int) -> np.random.Generator:
            return np.random.default_rng([seed, epoch, purpose])

        arrays: dict[str, Any] = {"order": np.arange(num_images, dtype=np.int32)}
        if balanced_sampling is None:
            stream(_ORDER).shuffle(arrays["order"])  # as `permutation`, which takes twice the memory
        else:
            assert labels is not None
            arrays["order"] = balanced_order(labels, power=balanced_sampling, generator=stream(_BALANCED_ORDER))
        if config.auto_augment != "none":
            arrays |= _policy_draws(stream(_POLICY), num_images, rand=config.auto_augment == "rand")
            if config.aa_prob < 1:
                arrays["coins"][stream(_POLICY_APPLIED).random(num_images) >= config.aa_prob] = _NEVER
        if config.crop != "none":
            arrays["box"] = _crop_boxes(stream(_CROP), num_images, read_size or image_size, config)
        if config.flip:
            flips = stream(_FLIP)
            arrays["flip"] = _in_pieces((num_images,), bool, lambda number: flips.random(number) < 0.5)
        if config.mixup > 0 or config.cutmix > 0:
            mix = _mix_draws(stream(_MIX), num_images, batch_size, image_size, config)
            if config.mix_prob < 1:
                left = stream(_MIX_APPLIED).random(len(mix.lam)) >= config.mix_prob
                mix.lam[left], mix.boxes[left] = 1, 0
            arrays["mix"] = mix
        if config.random_erase > 0:
            arrays |= _erase_draws(stream(_ERASE), num_images, image_size, config.random_erase)
        return cls(**arrays, config=config, batch_size=batch_size, size=image_size)


def _in_pieces(shape: tuple[int, ...], dtype: Any, draw: Callable[[int], Array]) -> Array:
    """An array of `shape` from draws of a few rows at a time: the numbers of one draw of all of them."""
    out = np.empty(shape, dtype=dtype)
    for start in range(0, len(out), _PIECE):
        piece = out[start : start + _PIECE]
        piece[:] = draw(len(piece))
    return out


def _policy_draws(generator: np.random.Generator, number: int, *, rand: bool) -> dict[str, Array]:
    """AutoAugment draws a sub-policy (Cubuk et al. 2019); RandAugment two operations and their magnitudes (Cubuk et al.
    2020, as timm's `rand-m9-mstd0.5-inc1`)."""
    signs = _in_pieces((number, 2), bool, lambda few: generator.random((few, 2)) < 0.5)
    if not rand:
        policy = generator.integers(SUB_POLICIES, size=number, dtype=np.uint8)
        return {"policy": policy, "coins": generator.random((number, 2), dtype=np.float32), "signs": signs}

    def tenths(few: int) -> Array:
        return (generator.normal(_RAND_MAGNITUDE, _RAND_STD, (few, 2)).clip(0, 10) * 10).round()

    levels = _in_pieces((number, 2), np.uint8, tenths)
    return {
        "operations": generator.integers(RAND_OPERATIONS, size=(number, 2), dtype=np.uint8),
        "levels": levels,
        "coins": generator.random((number, 2), dtype=np.float32),
        "signs": signs,
    }


def _crop_boxes(generator: np.random.Generator, number: int, size: Size, config: AugmentConfig) -> Array:
    if config.crop == "pad":
        boxes = np.empty((number, 4), dtype=np.int16)
        boxes[:, :2] = _in_pieces(
            (number, 2), np.int16, lambda few: generator.integers(2 * config.crop_padding + 1, size=(few, 2))
        )
        boxes[:, 2:] = size
        return boxes
    boxes = _random_boxes(generator, number, size, scale=(config.crop_scale, 1.0), ratio=_CROP_RATIO, may_fill=True)
    boxes[boxes[:, 2] == 0] = _central_box(size)
    return boxes


def _central_box(size: Size) -> tuple[int, int, int, int]:
    """The largest box around the centre whose aspect a resized crop may have (`RandomResizedCrop`, where no try fits)."""
    height, width = size
    low, high = _CROP_RATIO
    rows, columns = min(height, round(width / low)), min(width, round(height * high))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _random_boxes(
    generator: np.random.Generator,
    number: int,
    size: Size,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    may_fill: bool,
) -> Array:
    """Boxes of a random share of the area and a log-uniform aspect, the first of ten tries that fits; height 0 if none does.

    As `torchvision.transforms.RandomResizedCrop` and `RandomErasing` (Zhong et al. 2020) draw them; the latter's are
    smaller than the image (`may_fill` false), and its aspect is of height over width.
    """
    areas, aspects, places = (_further(generator, numbers * number) for numbers in (0, _TRIES, 2 * _TRIES))
    generator.bit_generator.advance(2 * (_TRIES + 1) * number)  # type: ignore[attr-defined]

    def some(few: int) -> Array:
        area = areas.uniform(*scale, (few, _TRIES)) * size[0] * size[1]
        aspect = np.exp(aspects.uniform(math.log(ratio[0]), math.log(ratio[1]), (few, _TRIES)))
        return _fitting(area, aspect, places.random((few, 2)), size, may_fill=may_fill)

    return _in_pieces((number, 4), np.int16, some)


def _further(generator: np.random.Generator, numbers: int) -> np.random.Generator:
    """What `generator` will be after so many uniform doubles."""
    other = copy.deepcopy(generator)
    other.bit_generator.advance(numbers)  # type: ignore[attr-defined]
    return other


def _fitting(area: Array, aspect: Array, place: Array, size: Size, *, may_fill: bool) -> Array:
    """The boxes (n, 4) of the first of the tries, area and aspect (n, tries), that fits, at a place (n, 2) in 0 to 1."""
    height, width = size
    rows, columns = np.sqrt(area / aspect).round().astype(int), np.sqrt(area * aspect).round().astype(int)
    if not may_fill:
        rows, columns = columns, rows
    room = 0 if may_fill else 1
    fits = (rows > 0) & (columns > 0) & (rows <= height - room) & (columns <= width - room)
    first = fits.argmax(axis=1)
    pick = np.arange(len(area))
    rows, columns = (np.where(fits.any(axis=1), side[pick, first], 0) for side in (rows, columns))
    top, left = (place[:, 0] * (height - rows + 1)).astype(int), (place[:, 1] * (width - columns + 1)).astype(int)
    return np.stack([top, left, rows, columns], axis=1)


def _mix_draws(generator: np.random.Generator, number: int, batch_size: int, size: Size, config: AugmentConfig) -> Mix:
    """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019), one draw a batch, the partner from the batch's other end."""
    batches = -(-number // batch_size)
    cuts = generator.random(batches) < config.mix_switch_prob
    if config.mixup == 0 or config.cutmix == 0:
        cuts[:] = config.cutmix > 0
    lam = np.where(cuts, _beta(generator, config.cutmix, batches), _beta(generator, config.mixup, batches))
    boxes = np.where(cuts[:, None], _cut_boxes(generator, lam, size), 0)
    lam = np.where(cuts, 1 - boxes[:, 2] * boxes[:, 3] / (size[0] * size[1]), lam)
    return Mix(batch_size=batch_size, lam=lam.astype(np.float32), boxes=boxes.astype(np.int16))


def _beta(generator: np.random.Generator, alpha: float, number: int) -> Array:
    return generator.beta(alpha, alpha, number) if alpha > 0 else np.ones(number)


def _cut_boxes(generator: np.random.Generator, lam: Array, size: Size) -> Array:
    """Boxes of a share `1 - lam` of the area around a uniform centre, clipped to the image."""
    sides = np.array(size)
    half = (np.sqrt(1 - lam)[:, None] * sides).astype(int) // 2
    centre = (generator.random((len(lam), 2)) * sides).astype(int)
    low, high = (centre - half).clip(0, sides), (centre + half).clip(0, sides)
    return np.hstack([low, high - low])


def _erase_draws(generator: np.random.Generator, number: int, size: Size, probability: float) -> dict[str, Array]:
    boxes = _random_boxes(generator, number, size, scale=_ERASE_SCALE, ratio=_ERASE_RATIO, may_fill=False)
    boxes[_in_pieces((number,), bool, lambda few: generator.random(few) >= probability), 2:] = 0
    return {"erase_box": boxes, "noise_seed": generator.integers(2**62, size=number)}
