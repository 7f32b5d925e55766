"""A data set as training sees it: what it is, and its splits, wherever their images come from."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from cctkit.config.size import Size
from cctkit.data.copies import Digests
from cctkit.data.epoch.loader import CHUNK_IMAGES
from cctkit.data.packed.decode import available_cores
from cctkit.data.packed.read import Packed
from cctkit.data.preprocess import Preprocess
from cctkit.data.report.report import DataReport
from cctkit.data.source import Labels
from cctkit.data.splitting import Channels
from cctkit.data.streamed import Streamed
from cctkit.digests import not_verified


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """A part of a data set: `index` (n,), int32, are its rows in `store`, `labels` (n,), int64, their classes."""

    store: Packed | Streamed
    index: np.ndarray[Any, np.dtype[np.int32]]
    labels: Labels

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: Labels) -> torch.Tensor:
        """The images at these positions of the split: uint8 (b, 3, H, W), a copy, on the device where the images are.

        Raises: UserError where an image is broken, of a streamed folder; DamagedError where a packed one is damaged.
        """
        return self.store.take(self.index[positions].astype(np.int64))

    @property
    def image_size(self) -> Size:
        """What `take` gives."""
        return self.store.image_size

    def ids(self) -> list[str]:
        """The images' ids: the path in the folder, or the number in the archive."""
        return self.store.ids(self.index.astype(np.int64))

    def fingerprint(self) -> str:
        """What the images are, in any order: the SHA-256 of the sorted heads of their digests (of a streamed folder: ids)."""
        heads = np.sort(self.store.order[self.index]).astype("<i8")
        return f"sha256:{hashlib.sha256(heads.tobytes()).hexdigest()}"

    def pixel_digests(self) -> Digests | None:
        """Of each image, by which its copies are found: see `pixel_digest`. None where they are not known."""
        return None if self.store.pixel_digests is None else self.store.pixel_digests[self.index]

    def only(self, positions: Labels) -> "Split":
        """The images at these positions alone."""
        return replace(self, index=self.index[positions], labels=self.labels[positions])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Images of K classes in up to three splits. What has the fingerprint of a named data set *is* that data set.

    stored_size: of the images when they are augmented or evaluated; where it is smaller than image_size, which the model
    takes, they are enlarged on the device. source: the folder or file it came from, None for a named data set; mean, std: by
    channel, of values in 0 to 1, of a streamed folder ImageNet's; split_made: the split into train and test was made here,
    from `split_seed`; split_rule: how, see `stratified_split`; report: what was found, to tell.
    """

    name: str
    source: str | None
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
        """Whether the images become larger on the device."""
        return self.stored_size != self.image_size

    @property
    def is_streamed(self) -> bool:
        """Whether an image is decoded each time that it is needed."""
        return isinstance(self.train.store, Streamed)

    @property
    def unverified(self) -> str | None:
        """What to say of a packed file of an earlier version: it has no checksums, so damaged bytes would not be seen."""
        store = self.train.store
        return not_verified(store.path) if isinstance(store, Packed) and store.checksums is None else None

    @property
    def packed_file(self) -> str | None:
        """Where the packed images are."""
        return str(self.train.store.path) if isinstance(self.train.store, Packed) else None

    @property
    def chunk_images(self) -> int:
        """How many images may be read between two steps; of those to decode one batch, so that a stop is not put off."""
        return 1 if self.is_streamed else CHUNK_IMAGES

    def whole(self) -> Split:
        """All images, of every split, in the order of the files."""
        index = np.sort(np.concatenate([split.index for split in (self.train, self.val, self.test) if split is not None]))
        store = self.train.store
        return Split(store=store, index=index, labels=store.labels[index])

    def workers(self, asked: int | None, *, processes: int = 1) -> int:
        """The processes that read images: as many as asked for; else none, or one a core for a streamed folder.

        processes: that share the machine's cores.
        """
        if asked is not None:
            return asked
        return max(1, available_cores() // processes) if self.is_streamed else 0

    def for_training(self, crop: str) -> "Dataset":
        """The same data set; of a streamed one the training images are read as training with this `crop` needs them."""
        store = self.train.store
        if not isinstance(store, Streamed):
            return self
        return replace(self, train=replace(self.train, store=store.for_training(margin=crop == "resized")))

    def on(self, device: str, *, most_bytes: float) -> "Dataset":
        """The same data set with its images, of every split, in the memory of `device`, where they take at most so much.

        Raises: DamagedError where some are damaged.
        """
        store = self.train.store
        if isinstance(store, Streamed) or store.images.nbytes > most_bytes:
            return self
        there = store.on(device)

        def moved(split: Split | None) -> Split | None:
            return None if split is None else replace(split, store=there)

        return replace(self, train=replace(self.train, store=there), val=moved(self.val), test=moved(self.test))
