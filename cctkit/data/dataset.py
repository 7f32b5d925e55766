"""A data set ready for training: from a name, a folder or a packed file to its splits."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs
import torch

from cctkit.catalog.datasets import DATASETS, NAME_OF_FINGERPRINT
from cctkit.config import DataConfig, Size
from cctkit.data.cifar import cifar_source, find_archive
from cctkit.data.digits import digits_source
from cctkit.data.download import download
from cctkit.data.folder import folder_source
from cctkit.data.packed import Packed, open_packed, pack
from cctkit.data.source import ROLES, Notify, Progress, Source
from cctkit.errors import UserError
from cctkit.text import safe_text

DEFAULT_SIZE: Size = (32, 32)
_TEST_SHARE = 0.2
_DEFAULT = "cifar100"

_Rows = np.ndarray[Any, np.dtype[np.int64]]
_Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """A part of a packed file: `index` (n,) are its rows in `packed.images`, `labels` (n,) their classes; both int64."""

    packed: Packed
    index: _Rows
    labels: _Rows

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: _Rows) -> torch.Tensor:
        """The images at these positions of the split: uint8 (b, 3, H, W), a copy."""
        return self.packed.images[torch.from_numpy(self.index[positions])]

    def ids(self) -> list[str]:
        """The images' ids: the path in the folder, or the number in the archive."""
        return self.packed.ids(self.index)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Images of K classes in up to three splits. What has the fingerprint of a named data set *is* that data set.

    source: the folder or file it came from, None for a named data set; mean, std: by channel, of values in 0 to 1;
    split_made: the split into train and test was made here, from `split_seed`.
    """

    name: str
    source: str | None
    named: bool
    class_names: tuple[str, ...]
    fingerprint: str
    image_size: Size
    resize_mode: Literal["crop", "squash"]
    mean: _Channels
    std: _Channels
    train: Split
    val: Split | None
    test: Split | None
    split_seed: int
    val_fraction: float
    split_made: bool
    skipped: tuple[str, ...]


def cache_folder() -> Path:
    """Where packed files are kept: CCTKIT_CACHE, or the user's cache."""
    return Path(os.environ.get("CCTKIT_CACHE") or platformdirs.user_cache_dir("cctkit"))


def load_dataset(config: DataConfig, *, progress: Progress = lambda *_: None, notify: Notify = lambda _: None) -> Dataset:
    """The data set that `config` names, packed into the cache the first time.

    progress is called throughout long work and may raise to stop it; notify is told before anything is downloaded, and
    why the digits take the place of CIFAR-100 where nothing was asked for.

    Raises: UserError where there is no such data, or it cannot be used; ResourceError where the disk is full.
    """
    name = config.dataset
    if name is not None and Path(name).is_file():
        return _assemble(open_packed(Path(name)), config, place=str(Path(name).resolve()))
    size = config.image_size or DEFAULT_SIZE
    source = _source(config, progress, notify)
    facts = repr((source.key, size, config.resize_mode, config.skip_bad)).encode()
    path = cache_folder() / "packed" / f"{hashlib.sha256(facts).hexdigest()[:32]}.safetensors"
    packed = _opened(path)
    if packed is None:
        pack(source, path, size=size, mode=config.resize_mode, skip_bad=config.skip_bad, progress=progress)
        packed = open_packed(path)
    return _assemble(packed, config, place=source.place)


def _opened(path: Path) -> Packed | None:
    """The packed file of the cache, where there is a good one."""
    if not path.exists():
        return None
    try:
        return open_packed(path)
    except UserError:  # a damaged cache is made anew
        return None


def _source(config: DataConfig, progress: Progress, notify: Notify) -> Source:
    name = config.dataset
    if name == "digits":
        return digits_source()
    if name is not None and name in DATASETS:
        return _named(name, config, progress, notify)
    if name is not None:
        return folder_source(Path(name))
    try:
        return _named(_DEFAULT, config, progress, notify)
    except UserError as error:
        notify(
            f"CIFAR-100 is not here ({error.what}), so this is the embedded digits. To get it: put "
            f"{DATASETS[_DEFAULT].archives[0].url} into {data_dir(config)}, or name a folder of images with --dataset"
        )
        return digits_source()


def data_dir(config: DataConfig) -> Path:
    """Where named data sets are kept: --data-dir, CCTKIT_DATA, or the user's cache."""
    return Path(config.data_dir or os.environ.get("CCTKIT_DATA") or Path(platformdirs.user_cache_dir("cctkit")) / "data")


def _named(name: str, config: DataConfig, progress: Progress, notify: Notify) -> Source:
    archives, folder = DATASETS[name].archives, data_dir(config)
    found = find_archive(archives, folder)
    if found is None:
        archive = archives[0]
        if not config.download:
            raise UserError(
                f"{name} is not there, and --no-download forbids to load it", safe_text(folder), "say where: --data-dir"
            )
        notify(f"downloading {DATASETS[name].title}, {archive.megabytes} MB, from {archive.url} to {folder}")
        download(archive.url, folder / archive.file, md5=archive.md5, progress=progress)
        found = archive, folder / archive.file
    return cifar_source(name, *found)


def _assemble(packed: Packed, config: DataConfig, *, place: str | None) -> Dataset:
    """The splits and statistics of a packed file."""
    header = packed.header
    if config.image_size is not None and tuple(header["image_size"]) != config.image_size:
        raise UserError(
            f"the packed images are {header['image_size']}, asked for {config.image_size}", place, "leave out --image-size"
        )
    fingerprint = header["fingerprint"]
    named = NAME_OF_FINGERPRINT.get(fingerprint) or (header["name"] if place is None else None)
    parts = {role: np.flatnonzero(packed.roles == i) for i, role in enumerate(ROLES)}
    made = len(parts["all"]) > 0
    train, test, val = parts["train"], parts["test"], parts["val"]
    if made:
        train, test = _carve(packed, parts["all"], _TEST_SHARE, (config.split_seed, 1))
    if config.val_fraction > 0:
        if len(val):
            raise UserError("there is a validation folder already", place, "leave out --val-fraction")
        train, val = _carve(packed, train, config.val_fraction, (config.split_seed, 2))
    row = DATASETS.get(named or "")
    computed = _statistics(packed, train)
    return Dataset(
        name=named or header["name"],
        source=place,
        named=named is not None,
        class_names=tuple(header["class_names"]),
        fingerprint=fingerprint,
        image_size=(header["image_size"][0], header["image_size"][1]),
        resize_mode=header["resize_mode"],
        mean=(row and row.mean) or computed[0],
        std=(row and row.std) or computed[1],
        train=_split(packed, train),
        val=_split(packed, val) if len(val) else None,
        test=_split(packed, test) if len(test) else None,
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        split_made=made,
        skipped=packed.skipped(),
    )


def _split(packed: Packed, rows: _Rows) -> Split:
    return Split(packed=packed, index=rows, labels=packed.labels[rows])


def _carve(packed: Packed, rows: _Rows, share: float, seed: tuple[int, int]) -> tuple[_Rows, _Rows]:
    """`rows` without and with a stratified `share`: of every class the same fraction, at least one image on each side.

    Raises: UserError where a class has only one image.
    """
    generator = np.random.default_rng(seed)
    labels = packed.labels[rows]
    taken = []
    for label, name in enumerate(packed.header["class_names"]):
        of_class = rows[labels == label]
        if len(of_class) < 2:
            raise UserError(
                f"class {safe_text(name)!r} has {len(of_class)} image to split, expected at least 2", "the data set"
            )
        number = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        taken.append(generator.permutation(of_class)[:number])
    second = np.sort(np.concatenate(taken))
    return np.setdiff1d(rows, second), second


def _statistics(packed: Packed, rows: _Rows) -> tuple[_Channels, _Channels]:
    """Mean and standard deviation of the channels over all pixels of these images, of values in 0 to 1."""
    pixels = len(rows) * packed.images.shape[2] * packed.images.shape[3]
    total = packed.sums[rows].sum(axis=0) / pixels
    mean = total[:3] / 255
    std = np.sqrt(np.maximum(total[3:] / 255**2 - mean**2, 1e-12))
    return _three(mean), _three(std)


def _three(values: np.ndarray[Any, Any]) -> _Channels:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue
