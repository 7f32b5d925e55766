"""Archives of named data sets: found in the data directory or downloaded into it, checked, and read in memory."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cctkit.catalog.datasets import Archive, DatasetRow
from cctkit.data.source import ROLES, DecodedImage, Notify, Origin, Progress, Source, digest_of, sorted_classes
from cctkit.data.sources.cifar import read_binary, read_python
from cctkit.data.sources.download import download, file_digest
from cctkit.data.sources.idx import read_idx
from cctkit.errors import UserError
from cctkit.text import safe_text

_SIZE_MARGIN = 1.5
_MAX_PART_BYTES = 200_000_000


def archive_origin(
    name: str, row: DatasetRow, data_dir: Path, *, may_download: bool, progress: Progress, notify: Notify
) -> Origin:
    """Find or download a named data set, without reading its images.

    Raises: UserError if it is neither there nor can be downloaded; ResourceError if the disk is full.
    """
    archive, paths = find_archive(row.archives, data_dir) or _downloaded(name, row, data_dir, may_download, progress, notify)
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return Origin(
        address=facts[0][0],
        key=digest_of(name, facts),
        place=None,
        load=lambda progress: _source(name, row, archive, paths, progress),
    )


def find_archive(archives: tuple[Archive, ...], data_dir: Path) -> tuple[Archive, list[Path]] | None:
    """The first form of a data set that is in `data_dir`, and its files: unpacked or archives.

    Archives are preferred if the unpacked files have no published checksums.
    """
    for archive in archives:
        forms = [[data_dir / archive.folder / part for part in archive.parts], [data_dir / file.path for file in archive.files]]
        for paths in forms if all(archive.parts.values()) else reversed(forms):
            if all(path.is_file() for path in paths):
                return archive, paths
    return None


def check_offline(name: str, row: DatasetRow, data_dir: Path) -> None:
    """Check that a named data set needs no download.

    Raises: UserError if it is not in `data_dir`.
    """
    if row.archives and find_archive(row.archives, data_dir) is None:
        raise UserError(
            f"{name} is not in the data directory, and --no-download is set",
            safe_text(data_dir),
            f"set --data-dir to where it is, or get it from {row.page}",
        )


def _downloaded(
    name: str, row: DatasetRow, data_dir: Path, may_download: bool, progress: Progress, notify: Notify
) -> tuple[Archive, list[Path]]:
    if not may_download:
        check_offline(name, row, data_dir)
    archive = row.archives[0]
    site = archive.files[0].url.rpartition("/")[0]
    notify(f"downloading {row.title}, {archive.megabytes:.0f} MB, from {site} to {safe_text(data_dir)}")
    return archive, [
        download(
            remote.url,
            data_dir / remote.path,
            md5=remote.md5,
            max_bytes=int(remote.megabytes * _SIZE_MARGIN * 1e6),
            progress=progress,
        )
        for remote in archive.files
    ]


def _source(name: str, row: DatasetRow, archive: Archive, paths: list[Path], progress: Progress) -> Source:
    """Read and check the files of a data set, and sort its classes by name, as in a folder.

    Raises: UserError if a file is missing, is not the published one, or has unexpected contents.
    """
    where = safe_text(paths[0].parent if len(paths) > 1 else paths[0])
    parts: dict[str, bytes] = {}
    try:
        for part, data in _parts(archive, paths, progress):
            progress(f"reading {name}", len(parts), len(archive.parts))
            if part in parts:
                raise UserError(f"the archive of {name} has {part} twice", where)
            parts[part] = data
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{name} cannot be read: {safe_text(error)}", where) from error
    if missing := [part for part in archive.parts if part not in parts]:
        raise UserError(f"the archive of {name} lacks {missing[0]}", where)
    if archive.reader == "idx":
        train, test = read_idx(parts, where)
        class_names = row.class_names
    else:
        train, test, class_names = (read_python if archive.reader == "cifar_python" else read_binary)(parts, where)
    labels = np.concatenate([train[1], test[1]])
    if not len(labels) or labels.min() < 0 or labels.max() >= len(class_names) or len(set(class_names)) < len(class_names):
        raise UserError("there are no images, or a label is out of range", where)
    class_names, labels = sorted_classes(class_names, labels)
    sides = (("train", train[0]), ("test", test[0]))
    return Source(
        name=name,
        place=None,
        class_names=class_names,
        labels=labels,
        roles=np.concatenate([np.full(len(pixels), ROLES.index(role), dtype=np.int8) for role, pixels in sides]),
        ids=[f"{role}/{i}" for role, pixels in sides for i in range(len(pixels))],
        read=lambda i: DecodedImage(train[0][i] if i < len(train[0]) else test[0][i - len(train[0])]),
    )


def _parts(archive: Archive, paths: list[Path], progress: Progress) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file after checking its MD5; nothing is unpacked to the disk."""
    if paths[0].name in archive.parts:
        for path, (part, md5) in zip(paths, archive.parts.items(), strict=True):
            if path.stat().st_size > _MAX_PART_BYTES:
                raise UserError(f"{part} is too large", safe_text(path))
            data = path.read_bytes()
            _check_md5(path, hashlib.md5(data, usedforsecurity=False).hexdigest(), md5)
            yield part, data
        return
    for path, remote in zip(paths, archive.files, strict=True):
        progress(f"checking {path.name}", 0, 1)
        _check_md5(path, file_digest(path, "md5"), remote.md5)
        if archive.reader == "idx":
            yield path.name.removesuffix(".gz"), _decompressed(path)
        else:
            yield from _members(archive, path)


def _check_md5(path: Path, found: str, published: str) -> None:
    """published: "" if there is none."""
    if published and found != published:
        raise UserError("the file is not the published one: its MD5 differs", safe_text(path), "remove it to download it again")


def _decompressed(path: Path) -> bytes:
    with gzip.open(path) as file:
        data = file.read(_MAX_PART_BYTES + 1)
    if len(data) > _MAX_PART_BYTES:
        raise UserError("the file is too large when decompressed", safe_text(path))
    return data


def _members(archive: Archive, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the expected members of a tar file, in one pass; their names are compared, never used as paths."""
    wanted = {f"{archive.folder}/{part}": part for part in archive.parts}
    with tarfile.open(path, "r|gz") as tar:
        for member in tar:
            if member.name not in wanted:
                continue
            file = tar.extractfile(member) if member.isreg() and member.size <= _MAX_PART_BYTES else None
            if file is None:
                raise UserError(f"{wanted[member.name]} in the archive is not a regular file, or is too large", safe_text(path))
            yield wanted[member.name], file.read()
