"""Write a packed file on all cores, or resume an interrupted one; an incomplete file never appears under its name."""

import contextlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cctkit.config.size import Size
from cctkit.data.packed.decode import BAD, ROW, decoded
from cctkit.data.packed.journal import PartialFile, open_partial, partial_path
from cctkit.data.packed.read import SCHEMA, Packed, open_packed
from cctkit.data.packed.write import header_of, images_at, write_rest
from cctkit.data.preprocess import Preprocess, stored_size, strict_pillow
from cctkit.data.report.faults import BROKEN_REMEDY
from cctkit.data.source import ROLES, BadImageError, DecodedImage, Progress, Source, check_broken, digest_of
from cctkit.errors import StoppedError, UserError
from cctkit.files import full_disk_named, make_directories
from cctkit.text import safe_text

_TRIED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig:
    """How to pack.

    key: identifies the images, see `Origin.key`.
    preprocess: its `stored_size` is the model's; smaller images of one size may stay as they are.
    skip_bad: leave broken images out.
    """

    key: str
    preprocess: Preprocess
    skip_bad: bool


def pack(source: Source, path: Path, *, config: PackConfig, progress: Progress, partial: Path | None = None) -> Packed:
    """Decode and resize every image of `source`, write the packed file, and memory-map it.

    An interrupted packing, in `partial` or beside `path`, is resumed. If all images have one size that is smaller than the
    model's and has its aspect ratio, they keep it (`stored_size`): 50,000 images of 32 x 32 would take 7.5 GB at 224 x 224.

    Raises: UserError naming broken images, unless they are skipped; ResourceError if the disk is full; StoppedError.
    """
    with full_disk_named(path):
        make_directories(path.parent)
        with open_partial(partial or partial_path(path), progress) as begun:
            if path.exists():  # damaged, or another process was faster
                with contextlib.suppress(UserError):
                    packed = open_packed(path)
                    begun.remove()
                    return packed
            try:
                packed = _filled(begun, source, config, progress)
                begun.finish(path)
            except OSError:
                begun.remove()
                raise
    return replace(packed, path=path)


class _OtherSizeError(Exception):
    """An image does not have the size of the first."""


def _filled(begun: PartialFile, source: Source, config: PackConfig, progress: Progress) -> Packed:
    """Keep the native size if all images have it and it is small; otherwise start again with the model's size."""
    native, preprocess = _first_size(source), config.preprocess

    def read(i: int) -> DecodedImage:
        image = source.read(i)
        if image.pixels.shape[:2] != native:
            raise _OtherSizeError
        return image

    kept = preprocess.stored_size if native is None else stored_size(native, preprocess.stored_size)
    if kept != preprocess.stored_size and not begun.matches(_key(config)):
        small = replace(config, preprocess=replace(preprocess, stored_size=kept))
        with contextlib.suppress(_OtherSizeError):
            return _at_size(begun, replace(source, read=read), small, progress)
    return _at_size(begun, source, config, progress)


def _first_size(source: Source) -> Size | None:
    """Size of the first readable image among the first few."""
    with strict_pillow():
        for i in range(min(_TRIED, len(source.ids))):
            with contextlib.suppress(BadImageError):
                height, width = source.read(i).pixels.shape[:2]
                return height, width
    return None


def _key(config: PackConfig) -> str:
    return digest_of(SCHEMA, ROW.descr, config.key, config.preprocess.stored_size, config.preprocess.resize_mode)


def _at_size(begun: PartialFile, source: Source, config: PackConfig, progress: Progress) -> Packed:
    size = config.preprocess.stored_size
    header = header_of(source, size, config.preprocess.resize_mode)
    total, image_bytes = len(source.ids), 3 * math.prod(size)
    reasons: dict[int, str] = {}
    start = begun.begin(
        _key(config),
        offset=images_at(header),
        image_bytes=image_bytes,
        total=total,
        is_readable=lambda i: _is_readable(source, i, reasons),
    )
    reasons |= _decode_rest(begun, source, config.preprocess, start, progress)
    rows = begun.rows()
    bad = [f"{safe_text(source.ids[i])}: {safe_text(reasons[i])}" for i in np.flatnonzero(rows["state"] == BAD).tolist()]
    where = safe_text(source.place or source.name)
    if not config.skip_bad:
        check_broken(bad, where, remedy=BROKEN_REMEDY)
    if len(bad) == total:
        raise UserError("no image can be read", where)
    if not np.isin(source.roles[rows["state"] != BAD], [ROLES.index("train"), ROLES.index("all")]).any():
        raise UserError("there are no images to train on", where, "put images into the class folders of train/")
    write_rest(begun.images, source, rows, header=header, skipped="\n".join(bad))
    begun.images.flush()
    os.fsync(begun.images.fileno())
    return open_packed(begun.path)  # before it is renamed: nobody can remove it in between


def _decode_rest(begun: PartialFile, source: Source, preprocess: Preprocess, start: int, progress: Progress) -> dict[int, str]:
    """Decode every image from `start` on; return the reason for each bad one, by number."""
    reasons: dict[int, str] = {}
    done = start
    try:
        for found in decoded(source, start=start, preprocess=preprocess, progress=progress):
            begun.add(found)
            reasons |= found.bad
            done += len(found.rows)
    except StoppedError as stop:
        raise StoppedError(
            stop.signal_number,
            f"stopped after {done:,} of {len(source.ids):,} images; rerun the same command to resume",
        ) from stop
    finally:
        begun.commit()
    return reasons


def _is_readable(source: Source, i: int, reasons: dict[int, str]) -> bool:
    """Whether image `i`, which an earlier process could not read, can be read now; if not, note why."""
    try:
        with strict_pillow():
            source.read(i)
    except BadImageError as error:
        reasons[i] = str(error)
    return i not in reasons
