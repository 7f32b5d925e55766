"""Load a data set and split it."""

import numpy as np

from cctkit.catalog.datasets import DATASETS
from cctkit.catalog.pretrained import IMAGENET_MEAN, IMAGENET_STD
from cctkit.config.settings import DataConfig
from cctkit.data.grouping import GroupKeys, group_keys
from cctkit.data.images import OpenedImages, open_images
from cctkit.data.packed.read import Packed
from cctkit.data.preprocess import enlarges
from cctkit.data.source import Labels, Notify, Progress
from cctkit.data.splits import Dataset, Split
from cctkit.data.splitting import BY_FILE, BY_PIXELS, statistics, stratified_split
from cctkit.data.streamed import Streamed
from cctkit.errors import UserError
from cctkit.text import safe_text

_TEST_SHARE = 0.2


def load_dataset(
    config: DataConfig, *, progress: Progress | None = None, notify: Notify | None = None, split_rule: int | None = None
) -> Dataset:
    """`open_images` and `split_images` in one.

    Raises: what they raise.
    """
    return split_images(open_images(config, progress=progress, notify=notify), config, split_rule=split_rule)


def split_images(images: OpenedImages, config: DataConfig, *, split_rule: int | None = None) -> Dataset:
    """Make the splits that the images do not come with, and compute mean and standard deviation.

    split_rule: rule of an earlier run, to split as it did; None: keep all copies of an image in one split if they are known.

    Raises: UserError if the images cannot be split, or are packed at a size from which `config.image_size` cannot be made.
    """
    store = images.store
    where = safe_text(images.place or store.name)
    size = config.image_size or store.image_size
    if not enlarges(store.image_size, size):
        height, width = store.image_size
        raise UserError(
            f"the packed images are {height}x{width}, which cannot be upsampled to {size[0]}x{size[1]}",
            where,
            "leave out --image-size",
        )
    rows = images.rows()
    train, test, val = rows["train"], rows["test"], rows["val"]
    made = len(train) == 0
    rule = split_rule or (BY_FILE if store.pixel_digests is None else BY_PIXELS)
    if rule == BY_PIXELS and store.pixel_digests is None and (made or config.val_fraction > 0):
        raise UserError(
            "the split keeps copies of an image together, but this packed file of an earlier version does not record copies",
            where,
            "pass the original images to --dataset, or pack them again",
        )
    group_of = _group_of(images, config, where, is_split=made or config.val_fraction > 0)
    if made:
        train, test = stratified_split(
            store, rows["all"], _TEST_SHARE, (config.split_seed, 1), where, rule=rule, group_of=group_of
        )
    if config.val_fraction > 0:
        if len(val):
            raise UserError("the data set already has a validation folder", where, "leave out --val-fraction")
        train, val = stratified_split(
            store, train, config.val_fraction, (config.split_seed, 2), where, rule=rule, group_of=group_of
        )
    mean, std = statistics(store, train) if isinstance(store, Packed) else (IMAGENET_MEAN, IMAGENET_STD)
    row = DATASETS.get(images.name) if images.is_named else None
    return Dataset(
        report=images.report(config, {"train": train, "val": val, "test": test}, split_made=made),
        name=images.name,
        named=images.is_named,
        class_names=store.class_names,
        fingerprint=store.fingerprint,
        image_size=size,
        stored_size=store.image_size,
        resize_mode=store.resize_mode,
        mean=(row and row.mean) or mean,
        std=(row and row.std) or std,
        train=_split(store, train),
        val=_split(store, val) if len(val) else None,
        test=_split(store, test) if len(test) else None,
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        split_made=made,
        split_rule=rule,
        group_by=config.group_by,
        skipped=store.skipped,
    )


def _group_of(images: OpenedImages, config: DataConfig, where: str, *, is_split: bool) -> GroupKeys | None:
    """The group of each image; None without --group-by.

    Raises: UserError if nothing is split, or an image belongs to no group.
    """
    if config.group_by is None:
        return None
    if not is_split:
        raise UserError(
            "--group-by has no effect, because the folder has train and test images already",
            where,
            "leave it out, or hold out validation images: --val-fraction 0.1",
        )
    store = images.store
    return group_keys(store.ids(np.arange(len(store.labels))), store.labels, store.class_names, config.group_by, where)


def _split(store: Packed | Streamed, rows: Labels) -> Split:
    follow = int(rows[-1] - rows[0]) == len(rows) - 1  # then a view of the mapped labels is enough
    labels = store.labels[rows[0] : rows[-1] + 1] if follow else store.labels[rows]
    return Split(store=store, index=rows.astype(np.int32), labels=labels)
