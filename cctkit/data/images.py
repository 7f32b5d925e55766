"""Open the images of a data set by its name, folder or packed file; pack them the first time."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cctkit.catalog.datasets import DATASETS, NAME_OF_FINGERPRINT
from cctkit.config.settings import DataConfig
from cctkit.config.size import Size
from cctkit.data.packed.journal import partial_path, remove_stale
from cctkit.data.packed.pack import PackConfig, pack
from cctkit.data.packed.read import SCHEMA, Packed, open_packed
from cctkit.data.preprocess import Preprocess
from cctkit.data.report.faults import refuse_faulty
from cctkit.data.report.findings import NAMED, FaultsError, Finding, broken_images
from cctkit.data.report.report import DataReport, fault_lines
from cctkit.data.source import ROLES, Labels, Notify, Origin, Progress, Role, digest_of
from cctkit.data.sources.archives import archive_origin
from cctkit.data.sources.digits import digits_origin
from cctkit.data.sources.folder import folder_origin
from cctkit.data.sources.places import cache_folder, data_dir, place_of, streamed_folder
from cctkit.data.streamed import Streamed, open_streamed
from cctkit.errors import DiskError, UserError
from cctkit.text import safe_text

DEFAULT_SIZE: Size = (32, 32)
_DEFAULT = "cifar100"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedImages:
    """The images of a data set before they are split.

    place: the folder or packed file; None for a named data set.
    findings: what was found besides images.
    folders: for a folder, each role and its subfolder.
    """

    store: Packed | Streamed
    place: str | None
    findings: tuple[Finding, ...] = ()
    folders: tuple[tuple[Role, str], ...] = ()

    @property
    def name(self) -> str:
        """Images with the fingerprint of a named data set have its name."""
        return NAME_OF_FINGERPRINT.get(self.store.fingerprint, self.store.name)

    @property
    def is_named(self) -> bool:
        """Whether `name` is that of a named data set."""
        return self.place is None or self.store.fingerprint in NAME_OF_FINGERPRINT

    @property
    def packed_file(self) -> Path | None:
        """Path of the packed file."""
        return self.store.path if isinstance(self.store, Packed) else None

    def rows(self) -> dict[Role, Labels]:
        """The rows of each role."""
        return {role: np.flatnonzero(self.store.roles == i) for i, role in enumerate(ROLES)}

    def report(self, config: DataConfig, parts: Mapping[Role, Labels], *, split_made: bool) -> DataReport:
        """Report on the images in these splits (name -> rows)."""
        store = self.store
        skipped = [broken_images(store.skipped, level="ignored", remedy=None)] if store.skipped else []
        return DataReport(
            name=self.name,
            place=self.place,
            store=store,
            parts={
                part: tuple(np.bincount(store.labels[rows], minlength=len(store.class_names)).tolist())
                for part, rows in parts.items()
                if len(rows)
            },
            split_made=split_made,
            image_size=config.image_size,
            findings=(*skipped, *(store.seen.findings() if store.seen else ()), *self.findings),
            folders=self.folders,
        )


def open_images(
    config: DataConfig, *, progress: Progress | None = None, notify: Notify | None = None, keep_faults: bool = False
) -> OpenedImages:
    """Open the images in `config`; the first time, they are packed into the cache.

    progress: called during long work; may raise to stop it.
    notify: called before a download, and if the digits replace CIFAR-100 because no data set was given.
    keep_faults: for `check`: open a folder with faults too, if it has images; its findings name every path.

    Raises: UserError if there are no such images or they cannot be used; ResourceError if the disk is full.
    """
    progress, notify = progress or (lambda *_: None), notify or (lambda _: None)
    try:
        with contextlib.nullcontext() if keep_faults else _faults_told(notify):
            if config.stream:
                return _opened_streamed(config, progress)
            path = place_of(config.dataset)
            if path is not None and path.is_file():
                return OpenedImages(store=open_packed(path), place=str(path))
            origin = _origin(config, progress, notify, keep_faults=keep_faults)
            return _opened(_packed(origin, config, progress), origin)
    except DiskError as error:
        raise DiskError(
            error.what,
            error.where,
            "free some space, set --data-dir and CCTKIT_CACHE to another disk, or read a folder without packing: --stream",
        ) from error


def pack_dataset(config: DataConfig, path: Path, *, progress: Progress | None = None, notify: Notify | None = None) -> Packed:
    """Pack the data set in `config` into the file `path`, which can then be used as a data set.

    Raises: UserError if there is no such data, it cannot be used, or `path` exists; ResourceError if the disk is full;
    StoppedError if `progress` raises it: the next call resumes.
    """
    progress, notify = progress or (lambda *_: None), notify or (lambda _: None)
    if path.exists():
        raise UserError("the output exists, and nothing is overwritten", safe_text(path), "choose another --output")
    if (file := place_of(config.dataset)) is not None and file.is_file():
        raise UserError("this is a file, expected a folder or the name of a data set", safe_text(file))
    with _faults_told(notify):
        origin = _origin(config, progress, notify)
        packed = pack(origin.load(progress), path, config=_pack_config(origin, config), progress=progress)
    images = _opened(packed, origin)
    notify("\n".join(images.report(config, images.rows(), split_made=False).lines()))
    return packed


@contextlib.contextmanager
def _faults_told(notify: Notify) -> Iterator[None]:
    """List all faults of a data set if they do not fit into its error message."""
    try:
        yield
    except FaultsError as error:
        if not error.is_short:
            notify("\n".join(fault_lines(error)))
        raise


def _opened(store: Packed | Streamed, origin: Origin) -> OpenedImages:
    return OpenedImages(store=store, place=origin.place, findings=origin.findings, folders=origin.folders)


def _opened_streamed(config: DataConfig, progress: Progress) -> OpenedImages:
    origin = folder_origin(streamed_folder(config), progress, max_pixels=config.max_pixels)
    refuse_faulty(origin, read=False, progress=progress)
    return _opened(open_streamed(origin, _preprocess(config), progress), origin)


def _packed(origin: Origin, config: DataConfig, progress: Progress) -> Packed:
    """Open the packed file in the cache, or make it; then remove outdated versions of it."""
    size = config.image_size or DEFAULT_SIZE
    place = digest_of(origin.address, size, config.resize_mode, config.skip_bad)[:16]
    path = cache_folder() / "packed" / f"{place}-{digest_of(SCHEMA, origin.key)[:16]}.safetensors"
    try:
        return open_packed(path, is_cached=True)
    except UserError:  # not there, or damaged
        remove_stale(path.parent)
        # Its name does not depend on --skip-bad, so that packing resumes when that is added.
        begun = partial_path(path.with_name(digest_of(origin.address, size, config.resize_mode)[:16]))
        packed = pack(origin.load(progress), path, config=_pack_config(origin, config), progress=progress, partial=begun)
    for older in path.parent.glob(f"{place}-*"):
        if older != path:
            with contextlib.suppress(OSError):  # Windows does not remove mapped files
                older.unlink()  # a process that has it mapped keeps it
    return replace(packed, is_cached=True)


def _preprocess(config: DataConfig) -> Preprocess:
    return Preprocess(
        stored_size=config.image_size or DEFAULT_SIZE, resize_mode=config.resize_mode, max_pixels=config.max_pixels
    )


def _pack_config(origin: Origin, config: DataConfig) -> PackConfig:
    return PackConfig(key=origin.key, preprocess=_preprocess(config), skip_bad=config.skip_bad)


def _origin(config: DataConfig, progress: Progress, notify: Notify, *, keep_faults: bool = False) -> Origin:
    name = config.dataset
    if name == "digits":
        return digits_origin()
    if (folder := place_of(name)) is not None:
        most_named = None if keep_faults else NAMED
        origin = folder_origin(folder, progress, max_pixels=config.max_pixels, most_named=most_named)
        if not keep_faults or any(finding.kind == "no_image" for finding in origin.findings):
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
            f"CIFAR-100 was not found ({error.what}); using the embedded digits instead. For CIFAR-100, put {file} from "
            f"{DATASETS[_DEFAULT].page} into {safe_text(data_dir(config))}, or set --data-dir to where it is"
        )
        return digits_origin()
