"""A data set ready for training: from a name, a folder or a packed file to its splits."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import platformdirs
import torch

from cctkit.catalog.datasets import DATASETS, NAME_OF_FINGERPRINT
from cctkit.config import DataConfig
from cctkit.data.archives import archive_origin
from cctkit.data.digits import digits_origin
from cctkit.data.folder import folder_origin
from cctkit.data.images import enlarges
from cctkit.data.packed import SCHEMA, Packed, open_packed
from cctkit.data.packing import Packing, pack
from cctkit.data.partial import partial_path, remove_stale
from cctkit.data.source import ROLES, Labels, Notify, Origin, Progress, digest_of
from cctkit.data.splitting import Channels, carve, statistics
from cctkit.data.transfer import to_device
from cctkit.errors import DiskError, UserError
from cctkit.size import Size
from cctkit.text import nearest, safe_text

DEFAULT_SIZE: Size = (32, 32)
_TEST_SHARE = 0.2
_DEFAULT = "cifar100"

_Rows = Labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """A part of a packed file: `index` (n,) are its rows in `packed.images`, `labels` (n,) their classes; both int64."""

    packed: Packed
    index: _Rows
    labels: _Rows

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: _Rows) -> torch.Tensor:
        """The images at these positions of the split: uint8 (b, 3, H, W), a copy, on the device where the images are."""
        images = self.packed.images
        return images.index_select(0, to_device(torch.from_numpy(self.index[positions]), images.device))

    def ids(self) -> list[str]:
        """The images' ids: the path in the folder, or the number in the archive."""
        return self.packed.ids(self.index)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Images of K classes in up to three splits. What has the fingerprint of a named data set *is* that data set.

    stored_size: of the images in the splits; where it is smaller than image_size, which the model takes, they are enlarged on
    the device. source: the folder or file it came from, None for a named data set; mean, std: by channel, of values in 0 to 1;
    split_made: the split into train and test was made here, from `split_seed`.
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
    skipped: tuple[str, ...]

    @property
    def is_enlarged(self) -> bool:
        """Whether the images become larger on the device."""
        return self.stored_size != self.image_size

    def on(self, device: str) -> "Dataset":
        """The same data set with all of its images, of every split, in the memory of `device`."""
        packed = replace(self.train.packed, images=self.train.packed.images.to(device))

        def moved(split: Split | None) -> Split | None:
            return None if split is None else replace(split, packed=packed)

        return replace(self, train=replace(self.train, packed=packed), val=moved(self.val), test=moved(self.test))


def cache_folder() -> Path:
    """Where packed files are kept: CCTKIT_CACHE, or the user's cache."""
    return Path(os.environ.get("CCTKIT_CACHE") or platformdirs.user_cache_dir("cctkit"))


def data_dir(config: DataConfig) -> Path:
    """Where named data sets are kept: --data-dir, CCTKIT_DATA, or the user's cache."""
    return Path(config.data_dir or os.environ.get("CCTKIT_DATA") or Path(platformdirs.user_cache_dir("cctkit")) / "data")


def load_dataset(config: DataConfig, *, progress: Progress | None = None, notify: Notify | None = None) -> Dataset:
    """The data set that `config` names, packed into the cache the first time.

    progress is called throughout long work and may raise to stop it; notify is told before anything is downloaded, and
    why the digits take the place of CIFAR-100 where nothing was asked for.

    Raises: UserError where there is no such data, or it cannot be used; ResourceError where the disk is full.
    """
    progress, notify = progress or (lambda *_: None), notify or (lambda _: None)
    try:
        name = config.dataset
        if name is not None and name not in DATASETS and (file := _existing(name)).is_file():
            return _assemble(open_packed(file), config, place=str(file))
        origin = _origin(config, progress, notify)
        return _assemble(_packed(origin, config, progress), config, place=origin.place)
    except DiskError as error:
        raise DiskError(
            error.what, error.where, "free some space, or move what is kept with --data-dir and CCTKIT_CACHE"
        ) from error


def load_packed(path: Path, config: DataConfig, *, place: str | None) -> Dataset:
    """The data set that another process has loaded from `place` as `config` names it, from its packed file.

    Raises: UserError where the file is gone.
    """
    return _assemble(open_packed(path), config, place=place)


def _packed(origin: Origin, config: DataConfig, progress: Progress) -> Packed:
    """The images from the cache, or decoded into it; then what they were like before is removed."""
    size = config.image_size or DEFAULT_SIZE
    place = digest_of(origin.address, size, config.resize_mode, config.skip_bad)[:16]
    path = cache_folder() / "packed" / f"{place}-{digest_of(SCHEMA, origin.key)[:16]}.safetensors"
    try:
        return open_packed(path)
    except UserError:  # not there, or damaged
        remove_stale(path.parent)
        # Of one name whatever is done with bad images: what was read goes on when --skip-bad is added.
        begun = partial_path(path.with_name(digest_of(origin.address, size, config.resize_mode)[:16]))
        packed = pack(origin.load(progress), path, how=_packing(origin, config), progress=progress, partial=begun)
    for older in path.parent.glob(f"{place}-*"):
        if older != path:
            older.unlink(missing_ok=True)  # who has it mapped keeps it
    return packed


def _packing(origin: Origin, config: DataConfig) -> Packing:
    return Packing(key=origin.key, size=config.image_size or DEFAULT_SIZE, mode=config.resize_mode, skip_bad=config.skip_bad)


def pack_dataset(config: DataConfig, path: Path, *, progress: Progress | None = None, notify: Notify | None = None) -> Packed:
    """The data set that `config` names as the packed file `path`, which then is a data set itself.

    Raises: UserError where there is no such data, it cannot be used, or `path` is there; ResourceError where the disk is full;
    StoppedError where `progress` raises it: the next call goes on from there.
    """
    progress, notify = progress or (lambda *_: None), notify or (lambda _: None)
    if path.exists():
        raise UserError("the output exists, and nothing is overwritten", safe_text(path), "choose another --output")
    if config.dataset is not None and config.dataset not in DATASETS and (file := _existing(config.dataset)).is_file():
        raise UserError("this is a file, expected a folder or the name of a data set", safe_text(file))
    origin = _origin(config, progress, notify)
    return pack(origin.load(progress), path, how=_packing(origin, config), progress=progress)


def _origin(config: DataConfig, progress: Progress, notify: Notify) -> Origin:
    name = config.dataset
    if name == "digits":
        return digits_origin()
    if name is not None and name not in DATASETS:
        return folder_origin(_existing(name), progress)
    try:
        return archive_origin(
            name or _DEFAULT,
            DATASETS[name or _DEFAULT],
            data_dir(config),
            may_download=config.download,
            progress=progress,
            notify=notify,
        )
    except UserError as error:
        if name is not None:
            raise
        file = DATASETS[_DEFAULT].archives[0].files[0].path
        notify(
            f"without CIFAR-100 ({error.what}), this uses the embedded digits. To get it: put {file} from "
            f"{DATASETS[_DEFAULT].page} into {safe_text(data_dir(config))}, or say where it is with --data-dir"
        )
        return digits_origin()


def _existing(name: str) -> Path:
    """The folder or file of this name.

    Raises: UserError where there is none.
    """
    path = Path(name)
    try:
        if name and path.exists():
            return path.resolve()
    except (OSError, ValueError):  # a name that no file system takes
        pass
    near = nearest(name, DATASETS)
    raise UserError(
        "there is no such folder, and no data set of this name",
        safe_text(name) or "--dataset",
        f"did you mean {' or '.join(near)}?" if near else f"a folder of images, or one of: {', '.join(DATASETS)}",
    )


def _assemble(packed: Packed, config: DataConfig, *, place: str | None) -> Dataset:
    """The splits and statistics of a packed file."""
    where = safe_text(place or packed.name)
    size = config.image_size or packed.image_size
    if not enlarges(packed.image_size, size):
        height, width = packed.image_size
        raise UserError(
            f"the packed images have {height}x{width} pixels, asked for fewer, or another shape",
            where,
            "leave out --image-size",
        )
    named = NAME_OF_FINGERPRINT.get(packed.fingerprint) or (packed.name if place is None else None)
    parts = {role: np.flatnonzero(packed.roles == i) for i, role in enumerate(ROLES)}
    train, test, val = parts["train"], parts["test"], parts["val"]
    made = len(train) == 0
    if made:
        train, test = carve(packed, parts["all"], _TEST_SHARE, (config.split_seed, 1), where)
    if config.val_fraction > 0:
        if len(val):
            raise UserError("there is a validation folder already", where, "leave out --val-fraction")
        train, val = carve(packed, train, config.val_fraction, (config.split_seed, 2), where)
    mean, std = statistics(packed, train)
    row = DATASETS.get(named or "")
    return Dataset(
        name=named or packed.name,
        source=place,
        named=named is not None,
        class_names=packed.class_names,
        fingerprint=packed.fingerprint,
        image_size=size,
        stored_size=packed.image_size,
        resize_mode=packed.resize_mode,
        mean=(row and row.mean) or mean,
        std=(row and row.std) or std,
        train=_split(packed, train),
        val=_split(packed, val) if len(val) else None,
        test=_split(packed, test) if len(test) else None,
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        split_made=made,
        skipped=packed.skipped,
    )


def _split(packed: Packed, rows: _Rows) -> Split:
    follow = int(rows[-1] - rows[0]) == len(rows) - 1  # then the file's own labels serve, mapped
    labels = packed.labels[rows[0] : rows[-1] + 1] if follow else packed.labels[rows]
    return Split(packed=packed, index=rows, labels=labels)
