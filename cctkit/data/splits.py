"""A loaded data set and its splits, independent of where the images are stored."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from cctkit.catalog.datasets import Channels
from cctkit.config.size import Size
from cctkit.data.copies import Digests
from cctkit.data.epoch.loader import CHUNK_IMAGES
from cctkit.data.packed.read import Packed
from cctkit.data.preprocess import Preprocess
from cctkit.data.report.report import DataReport
from cctkit.data.source import Labels
from cctkit.data.streamed import Streamed
from cctkit.data.workers import available_cores
from cctkit.digests import not_verified


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """A split of a data set.

    index: int32 (n,), rows in `store`.
    labels: int64 (n,), class of each row.
    """

    store: Packed | Streamed
    index: np.ndarray[Any, np.dtype[np.int32]]
    labels: Labels

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: Labels) -> torch.Tensor:
        """The images at these positions of the split: uint8 (b, 3, H, W), a copy, on the device where the images are.

        Raises: UserError if an image of a streamed folder is broken; DamagedError if a packed image is damaged.
        """
        return self.store.take(self.index[positions].astype(np.int64))

    @property
    def image_size(self) -> Size:
        """(height, width) of what `take` returns."""
        return self.store.image_size

    def ids(self) -> list[str]:
        """Image ids: the path in the folder, or the number in the archive."""
        return self.store.ids(self.index.astype(np.int64))

    def fingerprint(self) -> str:
        """SHA-256 of the images in any order: of their sorted digests' first 8 bytes (in a streamed folder, of the ids)."""
        heads = np.sort(self.store.order[self.index]).astype("<i8")
        return f"sha256:{hashlib.sha256(heads.tobytes()).hexdigest()}"

    def pixel_digests(self) -> Digests | None:
        """Digests by which copies of an image are found, see `pixel_digest`; None if unknown."""
        return None if self.store.pixel_digests is None else self.store.pixel_digests[self.index]

    def only(self, positions: Labels) -> "Split":
        """The subset at these positions."""
        return replace(self, index=self.index[positions], labels=self.labels[positions])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Images of K classes in up to three splits. Images with the fingerprint of a named data set *are* that data set.

    image_size: (height, width) of the model's input.
    stored_size: (height, width) of the stored images; if smaller than image_size, they are upsampled on the device.
    mean, std: per channel, of values in 0 to 1; ImageNet's for a streamed folder.
    split_made: whether train and test were split here, from `split_seed`.
    split_rule: see `stratified_split`.
    group_by: see `group_keys`.
    report: what was found in the images.
    """

    name: str
    named: bool
    class_names: tuple[str, ...]
    fingerprint: str
    image_size: Size
    stored_size: Size
    resize_mode: Literal["crop", "squash"]
    mean: Channels
    std: Channels
    train: Split
    val: Split | None
    test: Split | None
    split_seed: int
    val_fraction: float
    split_made: bool
    split_rule: int
    group_by: str | None
    skipped: tuple[str, ...]
    report: DataReport

    @property
    def preprocess(self) -> Preprocess:
        """The steps from an image of this data set to the model's input."""
        return Preprocess(
            stored_size=self.stored_size,
            resize_mode=self.resize_mode,
            mean=self.mean,
            std=self.std,
            image_size=self.image_size,
        )

    @property
    def is_enlarged(self) -> bool:
        """Whether the images are upsampled on the device."""
        return self.stored_size != self.image_size

    @property
    def is_streamed(self) -> bool:
        """Whether images are decoded each time they are used."""
        return isinstance(self.train.store, Streamed)

    @property
    def unverified(self) -> str | None:
        """Notice for a packed file of an earlier version: without checksums, damaged bytes go unnoticed."""
        store = self.train.store
        return not_verified(store.path) if isinstance(store, Packed) and store.checksums is None else None

    @property
    def chunk_images(self) -> int:
        """Images to read between two steps; a streamed folder reads one batch, so that a stop request is not delayed."""
        return 1 if self.is_streamed else CHUNK_IMAGES

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: train, and test and val if there are any."""
        named = {"test": self.test, "val": self.val, "train": self.train}
        return {name: split for name, split in named.items() if split is not None}

    def whole(self) -> Split:
        """All images, of every split, in the order of the files."""
        index = np.sort(np.concatenate([split.index for split in self.splits.values()]))
        store = self.train.store
        return Split(store=store, index=index, labels=store.labels[index])

    def workers(self, asked: int | None, *, processes: int = 1) -> int:
        """Number of loader workers: `asked` if given; otherwise 0, or one per core for a streamed folder.

        processes: number of training processes that share the cores.
        """
        if asked is not None:
            return asked
        return max(1, available_cores() // processes) if self.is_streamed else 0

    def for_training(self, crop: str) -> "Dataset":
        """The same data set; a streamed one reads its training images at the size that this `crop` needs."""
        store = self.train.store
        if not isinstance(store, Streamed):
            return self
        return replace(self, train=replace(self.train, store=store.for_training(margin=crop == "resized")))

    def on(self, device: str, *, most_bytes: float) -> "Dataset":
        """Move the images of every split to `device`, if they take at most `most_bytes`.

        Raises: DamagedError if some are damaged.
        """
        store = self.train.store
        if isinstance(store, Streamed) or store.images.nbytes > most_bytes:
            return self
        there = store.on(device)
        moved: dict[str, Any] = {name: replace(split, store=there) for name, split in self.splits.items()}
        return replace(self, **moved)
