"""The images that a trained model is evaluated on: the data set, the split, and the labels of its classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cctkit.catalog.datasets import DATASETS
from cctkit.config.settings import DataConfig
from cctkit.config.size import MAX_PIXELS
from cctkit.data.copies import Digests
from cctkit.data.dataset import split_images
from cctkit.data.images import open_images
from cctkit.data.overlap import seen_in_training
from cctkit.data.preprocess import enlarges
from cctkit.data.splits import Dataset, Split
from cctkit.data.splitting import BY_FILE, rule_of
from cctkit.data.streamed import is_of_streamed
from cctkit.errors import UserError
from cctkit.models.weights import WeightsInfo
from cctkit.text import counted, nearest, safe_text

_SPLITS = ("test", "val", "train")
_NAMED = 5  # classes in a message


def load_images(
    info: WeightsInfo,
    asked: DataConfig,
    stored: DataConfig,
    *,
    notify: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> Dataset:
    """The data set in `asked`, else the run's (`stored`), else the one that the weights file names; at the model's size.

    Raises: UserError if none is known, or if the run's images have changed.
    """
    config = _data_config(info, asked, stored)
    rule = rule_of(info.dataset, "the header of the weights file")
    images = open_images(config, progress=progress, notify=notify)
    if not enlarges(images.store.image_size, info.stored_size):  # more pixels than the model saw in training
        config = replace(config, image_size=info.stored_size)
        images = open_images(config, progress=progress, notify=notify)
    if images.store.fingerprint == info.dataset["fingerprint"]:
        split = replace(config, val_fraction=info.dataset["val_fraction"], group_by=info.dataset.get("group_by"))
        return split_images(images, split, split_rule=rule)
    if asked.dataset is None:
        raise UserError(
            f"the images of {images.name} are not those that the model was trained with",
            "eval",
            "give --dataset to use others",
        )
    # All are evaluated, even if copies prevent a split.
    return split_images(images, replace(config, group_by=None), split_rule=BY_FILE)


def _data_config(info: WeightsInfo, asked: DataConfig, stored: DataConfig) -> DataConfig:
    """A model trained on a streamed folder is evaluated on a streamed one.

    Packing would split the folder differently, and training images would be among the test images.
    """
    name = asked.dataset or stored.dataset or (info.dataset["name"] if info.dataset["named"] else None)
    if name is None:
        raise UserError(
            f"the weights come from the folder {safe_text(info.dataset['name'])}, which is not known here",
            "eval",
            "say which images: --dataset FOLDER",
        )
    return replace(
        asked,
        dataset=name,
        data_dir=asked.data_dir or stored.data_dir,
        image_size=info.model.image_size,
        resize_mode=info.resize_mode,
        split_seed=info.dataset["split_seed"],
        skip_bad=asked.skip_bad or stored.skip_bad,
        max_pixels=asked.max_pixels if asked.max_pixels != MAX_PIXELS else stored.max_pixels,
        stream=is_of_streamed(info.dataset["fingerprint"]) and name not in DATASETS and Path(name).is_dir(),
    )


def default_split(dataset: Dataset, info: WeightsInfo, notify: Callable[[str], None]) -> str:
    """`test`; `all` for a folder without a test part that the model was not trained with."""
    if not dataset.split_made or dataset.fingerprint == info.dataset["fingerprint"]:
        return "test"
    notify(f"{dataset.name} has no test part and is not what the model was trained with: all of its images are evaluated")
    return "all"


def split_named(dataset: Dataset, name: str) -> Split:
    """The split `name` of `dataset`: train, val, test, or all of its images.

    Raises: UserError if there is no such split.
    """
    if name == "all":
        return dataset.whole()
    if name not in _SPLITS:
        raise UserError(f"unknown split '{safe_text(name)}', expected {', '.join(_SPLITS)} or all", "--split")
    if name not in dataset.splits:
        raise UserError(f"{dataset.name} has no {name} split, it has: {', '.join(dataset.splits)}", "--split")
    return dataset.splits[name]


def leave_out_seen(
    split: Split, seen: Digests | None, *, include_seen: bool, name: str, notify: Callable[[str], None]
) -> tuple[Split, dict[str, Any]]:
    """The images of `split` that the run was not trained on, and what the result says about the others.

    seen: digests of the run's training images; None if they are not known.
    include_seen: keep the images that the run was trained on.
    name: of the data set, for the message.

    Raises: UserError if none is left.
    """
    found = seen_in_training(split, seen)
    if found is None:
        why = "without seen.safetensors of its run" if seen is None else "since these images are not known by their pixels"
        notify(f"whether the model was trained on some of these images: not checked, {why}")
        return split, {"seen_in_training": None, "seen_included": None}
    figures = {"seen_in_training": len(found), "seen_included": include_seen}
    if len(found) == 0 or include_seen:
        if len(found):
            notify(f"the run was trained on {len(found):,} of these {counted(len(split), 'image')}, which are included")
        return split, figures
    if len(found) == len(split):
        raise UserError(
            f"the run was trained on all of these {counted(len(split), 'image')}",
            safe_text(name),
            "give --dataset others, or evaluate them nonetheless: --include-seen",
        )
    notify(
        f"left out {len(found):,} of {counted(len(split), 'image')}, on which the run was trained (--include-seen keeps them)"
    )
    return split.only(np.delete(np.arange(len(split)), found)), figures


def class_order(dataset: Dataset, class_names: tuple[str, ...], asked: str | None) -> np.ndarray:
    """The model's label for each class of the data set, matched by name: int64 (classes,).

    Raises: UserError naming the classes that the model does not know.
    """
    new = [name for name in dataset.class_names if name not in class_names]
    if new:
        near = [
            f"'{safe_text(name)}' is like '{safe_text(found[0])}'" for name in new if (found := nearest(name, class_names, 1))
        ]
        raise UserError(
            f"the model does not know {counted(len(new), 'class', 'classes')} of the images: {listed(new)}",
            safe_text(asked or dataset.name),
            f"rename or leave out their folders; {'; '.join(near[:_NAMED])}" if near else "leave their folders out",
        )
    return np.array([class_names.index(name) for name in dataset.class_names], dtype=np.int64)


def listed(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(map(safe_text, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")
