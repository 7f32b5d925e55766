"""Load a data set from a name, a folder or a packed file, and split it."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs

from cctkit.catalog.datasets import DATASETS, NAME_OF_FINGERPRINT
from cctkit.catalog.pretrained import IMAGENET_MEAN, IMAGENET_STD
from cctkit.config.settings import DataConfig
from cctkit.config.size import Size
from cctkit.data.packed.journal import partial_path, remove_stale
from cctkit.data.packed.pack import PackConfig, pack
from cctkit.data.packed.read import SCHEMA, Packed, open_packed
from cctkit.data.preprocess import Preprocess, enlarges
from cctkit.data.report.faults import refuse_faulty
from cctkit.data.report.findings import FaultsError
from cctkit.data.report.report import DataReport, fault_lines, left_out, numbers_of
from cctkit.data.source import ROLES, Labels, Notify, Origin, Progress, digest_of
from cctkit.data.sources.archives import archive_origin
from cctkit.data.sources.digits import digits_origin
from cctkit.data.sources.folder import folder_origin
from cctkit.data.sources.places import data_dir, existing, streamed_folder
from cctkit.data.splits import Dataset, Split
from cctkit.data.splitting import BY_FILE, BY_PIXELS, statistics, stratified_split
from cctkit.data.streamed import Streamed, open_streamed
from cctkit.errors import DiskError, UserError
from cctkit.text import safe_text

DEFAULT_SIZE: Size = (32, 32)
_TEST_SHARE = 0.2
_DEFAULT = "cifar100"


def cache_folder() -> Path:
    """Folder of the packed files: CCTKIT_CACHE, or the user's cache."""
    return Path(os.environ.get("CCTKIT_CACHE") or platformdirs.user_cache_dir("cctkit"))


def load_dataset(
    config: DataConfig, *, progress: Progress | None = None, notify: Notify | None = None, split_rule: int | None = None
) -> Dataset:
    """Load the data set in `config`; the first time, it is packed into the cache.

    progress: called during long work; may raise to stop it.
    notify: called before a download, and if the digits replace CIFAR-100 because no data set was given.
    split_rule: rule of an earlier run, to split as it did; None: keep all copies of an image in one split if they are known.

    Raises: UserError if there is no such data or it cannot be used; ResourceError if the disk is full.
    """
    progress, notify = progress or (lambda *_: None), notify or (lambda _: None)
    try:
        name = config.dataset
        if config.stream:
            origin, streamed = _streamed(config, progress)
            return _assemble(streamed, config, place=streamed.place, origin=origin, split_rule=split_rule)
        if name is not None and name not in DATASETS and (file := existing(name)).is_file():
            return _assemble(open_packed(file), config, place=str(file), split_rule=split_rule)
        origin = _origin(config, progress, notify)
        packed = _packed(origin, config, progress)
        return _assemble(packed, config, place=origin.place, origin=origin, split_rule=split_rule)
    except FaultsError as error:
        if not error.is_short:
            notify("\n".join(fault_lines(error)))
        raise
    except DiskError as error:
        raise DiskError(
            error.what,
            error.where,
            "free some space, move what is kept with --data-dir and CCTKIT_CACHE, or read a folder as it is with --stream",
        ) from error


def load_packed(path: Path, config: DataConfig, *, place: str | None, split_rule: int | None = None) -> Dataset:
    """Load the packed file of a data set that another process has loaded from `place` with this `config`.

    Raises: UserError if the file no longer exists.
    """
    return _assemble(open_packed(path, is_cached=str(path) != place), config, place=place, split_rule=split_rule)


def _streamed(config: DataConfig, progress: Progress) -> tuple[Origin, Streamed]:
    """The folder in `config`, without reading its images.

    Raises: UserError if it is not a folder or has faults.
    """
    folder = streamed_folder(config)
    origin = folder_origin(folder, progress, max_pixels=config.max_pixels)
    refuse_faulty(origin, read=False, progress=progress)
    return origin, open_streamed(origin, _preprocess(config), progress)


def _packed(origin: Origin, config: DataConfig, progress: Progress) -> Packed:
    """Open the packed file in the cache, or make it; then remove outdated versions of it."""
    size = config.image_size or DEFAULT_SIZE
    place = digest_of(origin.address, size, config.resize_mode, config.skip_bad)[:16]
    path = cache_folder() / "packed" / f"{place}-{digest_of(SCHEMA, origin.key)[:16]}.safetensors"
    try:
        return open_packed(path, is_cached=True)
    except UserError:  # not there, or damaged
        remove_stale(path.parent)
        # Of one name whatever is done with bad images: what was read goes on when --skip-bad is added.
        begun = partial_path(path.with_name(digest_of(origin.address, size, config.resize_mode)[:16]))
        packed = pack(origin.load(progress), path, config=_pack_config(origin, config), progress=progress, partial=begun)
    for older in path.parent.glob(f"{place}-*"):
        if older != path:
            with contextlib.suppress(OSError):  # of Windows, which removes nothing that is mapped
                older.unlink()  # who has it mapped keeps it
    return replace(packed, is_cached=True)


def _preprocess(config: DataConfig) -> Preprocess:
    return Preprocess(
        stored_size=config.image_size or DEFAULT_SIZE, resize_mode=config.resize_mode, max_pixels=config.max_pixels
    )


def _pack_config(origin: Origin, config: DataConfig) -> PackConfig:
    return PackConfig(key=origin.key, preprocess=_preprocess(config), skip_bad=config.skip_bad)


def pack_dataset(config: DataConfig, path: Path, *, progress: Progress | None = None, notify: Notify | None = None) -> Packed:
    """Pack the data set in `config` into the file `path`, which can then be used as a data set.

    Raises: UserError if there is no such data, it cannot be used, or `path` exists; ResourceError if the disk is full;
    StoppedError if `progress` raises it: the next call resumes.
    """
    progress, notify = progress or (lambda *_: None), notify or (lambda _: None)
    if path.exists():
        raise UserError("the output exists, and nothing is overwritten", safe_text(path), "choose another --output")
    if config.dataset is not None and config.dataset not in DATASETS and (file := existing(config.dataset)).is_file():
        raise UserError("this is a file, expected a folder or the name of a data set", safe_text(file))
    try:
        origin = _origin(config, progress, notify)
        packed = pack(origin.load(progress), path, config=_pack_config(origin, config), progress=progress)
    except FaultsError as error:
        if not error.is_short:
            notify("\n".join(fault_lines(error)))
        raise
    parts: dict[str, Labels] = {role: np.flatnonzero(packed.roles == i) for i, role in enumerate(ROLES)}
    notify("\n".join(_report(packed, config, parts, place=origin.place, origin=origin, split_made=False).lines()))
    return packed


def _origin(config: DataConfig, progress: Progress, notify: Notify) -> Origin:
    name = config.dataset
    if name == "digits":
        return digits_origin()
    if name is not None and name not in DATASETS:
        origin = folder_origin(existing(name), progress, max_pixels=config.max_pixels)
        refuse_faulty(origin, read=not config.skip_bad, progress=progress)
        return origin
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


def _assemble(
    store: Packed | Streamed,
    config: DataConfig,
    *,
    place: str | None,
    origin: Origin | None = None,
    split_rule: int | None,
) -> Dataset:
    """Compute the splits and statistics of a packed file or a streamed folder."""
    where = safe_text(place or store.name)
    size = config.image_size or store.image_size
    if not enlarges(store.image_size, size):
        height, width = store.image_size
        raise UserError(
            f"the packed images have {height}x{width} pixels, asked for fewer, or another shape",
            where,
            "leave out --image-size",
        )
    named = NAME_OF_FINGERPRINT.get(store.fingerprint) or (store.name if place is None else None)
    parts = {role: np.flatnonzero(store.roles == i) for i, role in enumerate(ROLES)}
    train, test, val = parts["train"], parts["test"], parts["val"]
    made = len(train) == 0
    rule = split_rule or (BY_FILE if store.pixel_digests is None else BY_PIXELS)
    if rule == BY_PIXELS and store.pixel_digests is None and (made or config.val_fraction > 0):
        raise UserError(
            "the split keeps copies of an image together, and this packed file, of an older version, does not tell which are",
            where,
            "give --dataset the images that it was packed from, or pack them anew",
        )
    if made:
        train, test = stratified_split(store, parts["all"], _TEST_SHARE, (config.split_seed, 1), where, rule=rule)
    if config.val_fraction > 0:
        if len(val):
            raise UserError("there is a validation folder already", where, "leave out --val-fraction")
        train, val = stratified_split(store, train, config.val_fraction, (config.split_seed, 2), where, rule=rule)
    mean, std = statistics(store, train) if isinstance(store, Packed) else (IMAGENET_MEAN, IMAGENET_STD)
    row = DATASETS.get(named or "")
    report = _report(
        store, config, {"train": train, "val": val, "test": test}, place=place, origin=origin, split_made=made, name=named
    )
    return Dataset(
        report=report,
        name=named or store.name,
        source=place,
        named=named is not None,
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
        skipped=store.skipped,
    )


def _report(
    store: Packed | Streamed,
    config: DataConfig,
    parts: Mapping[str, Labels],
    *,
    place: str | None,
    origin: Origin | None,
    split_made: bool,
    name: str | None = None,
) -> DataReport:
    """Report on the images of these splits (name -> rows)."""
    seen = store.seen
    return DataReport(
        name=name or store.name,
        place=place,
        class_names=store.class_names,
        parts={part: numbers_of(store.labels[rows], len(store.class_names)) for part, rows in parts.items() if len(rows)},
        folders=origin.folders if origin else (),
        split_made=split_made,
        seen=seen,
        is_sample=isinstance(store, Streamed),
        stored_size=store.image_size,
        image_size=config.image_size or store.image_size,
        resize_mode=store.resize_mode,
        size_chosen=config.image_size is not None,
        findings=(
            *left_out(store.skipped),
            *(seen.findings() if seen else ()),
            *(origin.findings if origin else ()),
        ),
    )


def _split(store: Packed | Streamed, rows: Labels) -> Split:
    follow = int(rows[-1] - rows[0]) == len(rows) - 1  # then the file's own labels serve, mapped
    labels = store.labels[rows[0] : rows[-1] + 1] if follow else store.labels[rows]
    return Split(store=store, index=rows.astype(np.int32), labels=labels)
