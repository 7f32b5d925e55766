"""Archives that would write elsewhere, and files that would grow beyond the memory."""

import dataclasses
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import torch

from cctkit.catalog.datasets import DATASETS, Archive, DatasetRow
from cctkit.data.sources.archives import archive_origin
from cctkit.errors import UserError
from cctkit.models.foreign import read_foreign
from tests.data.test_cifar import python_parts
from tests.data.test_mnist import parts as idx_parts
from tests.robustness.output import printed_by
from tests.robustness.trials import MOST_BYTES, limits

_FOLDER = "cifar-100-python"
Add = Callable[[tarfile.TarFile], None]


def _member(name: str, data: bytes = b"x", **facts: Any) -> Add:
    """`facts`: fields of the entry, such as its type."""

    def add(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for key, value in facts.items():
            setattr(entry, key, value)
        tar.addfile(entry, io.BytesIO(data))

    return add


def _link(kind: bytes, name: str = f"{_FOLDER}/train", to: str = "/etc/passwd") -> Add:
    return _member(name, b"", type=kind, linkname=to)


_LINKED = (_link(tarfile.SYMTYPE, "cifar-100-python-link", ".."), _member("cifar-100-python-link/outside"))
# What each has beside the intact parts, of which those are left out that it has itself.
HOSTILE: Mapping[str, tuple[Add, ...]] = {
    "a path upwards": (_member("../outside"),),
    "an absolute path": (_member("/tmp/cctkit-outside"),),
    "a path down and up": (_member(f"{_FOLDER}/../../outside"),),
    "a part by a path upwards": (_member(f"../{_FOLDER}/train"),),
    "a path of Windows": (_member("..\\..\\outside"), _member("C:\\outside")),
    "a symbolic link for a part": (_link(tarfile.SYMTYPE),),
    "a hard link for a part": (_link(tarfile.LNKTYPE),),
    "a pipe for a part": (_link(tarfile.FIFOTYPE),),
    "a device for a part": (_link(tarfile.CHRTYPE),),
    "a folder for a part": (_link(tarfile.DIRTYPE),),
    "a link to a folder, and a file in it": _LINKED,
    "a link for the folder": (_link(tarfile.SYMTYPE, _FOLDER, "/tmp"),),
    "a part twice": (_member(f"{_FOLDER}/train"), _member(f"{_FOLDER}/train", python_parts()["test"])),
    "control characters": (_member("\x1b[2J\x07outside"), _member("new\nline")),
    "another path in an extended header": (_member("harmless", pax_headers={"path": "../outside"}),),
    "a set-user-ID program": (_member(f"{_FOLDER}/tool", b"#!/bin/sh\n", mode=0o6777, uid=0),),
}


def write_hostile(path: Path, name: str) -> None:
    """The archive `name`: a small CIFAR-100 with what is hostile in it."""
    own = io.BytesIO()
    with tarfile.open(fileobj=own, mode="w") as only:
        for add in HOSTILE[name]:
            add(only)
        taken = set(only.getnames()) & {f"{_FOLDER}/train"}
    with tarfile.open(path, "w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as tar:
        for add in HOSTILE[name]:
            add(tar)
        for part, data in python_parts().items():
            if f"{_FOLDER}/{part}" not in taken:
                _member(f"{_FOLDER}/{part}", data)(tar)


def _row(path: Path) -> DatasetRow:
    """CIFAR-100 as the archive at `path`, whose checksum is not compared."""
    archive: Archive = next(each for each in DATASETS["cifar100"].archives if each.reader == "cifar_python")
    archive = dataclasses.replace(archive, files=(dataclasses.replace(archive.files[0], path=path.name, md5=""),))
    return dataclasses.replace(DATASETS["cifar100"], archives=(archive,))


def faults_of_hostile(name: str, folder: Path) -> Iterator[str]:
    """What is wrong with how this archive is read: bytes outside, or results other than the intact archive's."""
    inside = folder / "a" / "b" / "data"
    inside.mkdir(parents=True)
    path = inside / "small.tar.gz"
    write_hostile(path, name)
    before, elsewhere = _tree(folder), Path("/tmp/cctkit-outside")
    how: Any = {"may_download": False, "progress": lambda *_: None, "notify": lambda _: None}
    try:
        source = archive_origin("small", _row(path), inside, **how).load(lambda *_: None)
        if len(source.labels) != 18 or source.class_names != ("ant", "bee", "zebra"):
            yield "it is read with other results"
    except UserError as error:
        if not str(error).isprintable():
            yield f"its message cannot be printed: {str(error)!r}"
    if _tree(folder) != before or elsewhere.exists():
        yield f"it wrote {sorted(_tree(folder) - before)}"


def _tree(folder: Path) -> set[str]:
    return {os.path.join(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files)}


# Bombs: a file, and the command that reads it.


_BLOCK = 2**20


def _zeros(size: int, *, first: bytes = b"") -> bytes:
    """`first` and `size` zeros as a stream of deflate. After a full flush equal blocks are equal bytes: one is compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (size // _BLOCK) + packer.compress(bytes(size % _BLOCK)) + packer.flush()


def _zlib_zeros(size: int) -> bytes:
    """The same with zlib's header and checksum, which for zeros is their number."""
    return b"\x78\xda" + _zeros(size) + struct.pack(">HH", size % 65_521, 1)


def _gzip_zeros(size: int, *, first: bytes = b"") -> bytes:
    """The same with gzip's header; whoever has read up to its checksum has read it all."""
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + _zeros(size, first=first) + bytes(4) + struct.pack("<I", size + len(first))


def _gzip_of_a_gigabyte(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
    row = DATASETS["mnist"]
    files = []
    for remote, data in zip(row.archives[0].files, idx_parts().values(), strict=True):
        path = folder / "data" / remote.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_gzip_zeros(2**30) if "train-images" in path.name else gzip.compress(data))
        files.append(dataclasses.replace(remote, md5=""))
    row = dataclasses.replace(row, archives=(dataclasses.replace(row.archives[0], files=tuple(files)),))
    return ["pack", "mnist", "--data-dir", str(folder / "data"), "-o", str(folder / "new")], {"mnist": row}


def _tar_of_a_gigabyte(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
    (folder / "data").mkdir()
    path = folder / "data" / "small.tar.gz"
    entry = tarfile.TarInfo(f"{_FOLDER}/train")
    entry.size = 2**30
    path.write_bytes(_gzip_zeros(entry.size + 1024, first=entry.tobuf()))
    return ["pack", "cifar100", "--data-dir", str(folder / "data"), "-o", str(folder / "new")], {"cifar100": _row(path)}


def _pickle_of_a_gigabyte(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
    """A batch whose text claims 2 GiB, and one that doubles a list thirty times."""
    doubling = b"\x80\x02]q\x00" + b"".join(b"(h%ch%ce" % (0, 0) for _ in range(30)) + b"."
    bombs = {"train": b"\x80\x02\x8b\xff\xff\xff\x7f.", "test": doubling, "meta": pickle.dumps({b"fine_label_names": []}, 2)}
    (folder / "data").mkdir()
    path = folder / "data" / "small.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in bombs.items():
            _member(f"{_FOLDER}/{name}", data)(tar)
    return ["pack", "cifar100", "--data-dir", str(folder / "data"), "-o", str(folder / "new")], {"cifar100": _row(path)}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int) -> bytes:
    """A PNG of `side` x `side` black pixels, which compress to a thousandth."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = _zlib_zeros(side * (1 + 3 * side))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _png_text() -> bytes:
    """A small PNG whose comment is a gigabyte when decompressed."""
    text = _zlib_zeros(2**30)
    small = png_bomb(8)
    return small[:33] + _chunk(b"zTXt", b"Comment\0\0" + text) + small[33:]


def _jpeg() -> bytes:
    """The header of a JPEG of 65,500 x 65,500 pixels."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def _gif() -> bytes:
    """A GIF of 65,535 x 65,535 pixels."""
    screen = struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + frame + b"\x3b"


def _bmp() -> bytes:
    """A BMP of 100,000 x 100,000 pixels in run-length encoding, which has no rows."""
    facts = struct.pack("<IiiHHIIiiII", 40, 100_000, 100_000, 1, 8, 1, 2, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 2000, 0, 0, 14 + 40 + 1024) + facts + bytes(1024) + b"\0\1"


def _image(make: Callable[[], bytes], ending: str) -> Callable[[Path], tuple[list[str], dict[str, DatasetRow]]]:
    def bomb(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
        for name in ("cat", "dog"):
            (folder / "images" / name).mkdir(parents=True)
            for number in range(3):
                shade = png_bomb(8 + number)
                (folder / "images" / name / f"{number}.png").write_bytes(shade)
        (folder / "images" / "cat" / f"bomb.{ending}").write_bytes(make())
        return ["pack", str(folder / "images"), "--image-size", "8", "-o", str(folder / "new")], {}

    return bomb


def _pth(write: Callable[[Path], object]) -> Callable[[Path], tuple[list[str], dict[str, DatasetRow]]]:
    def bomb(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
        write(folder / "w.pth")
        return ["import", str(folder / "w.pth"), "-m", "cct_2_3x1", "-o", str(folder / "new")], {}

    return bomb


def _deflated(path: Path) -> None:
    """A `.pth` file of zeros, compressed; that it is compressed is enough."""
    torch.save({"a": torch.zeros(2**24)}, path)
    with zipfile.ZipFile(path) as plain:
        parts = {entry.filename: plain.read(entry) for entry in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)


def _expanded(path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**12)}, path)


def _header(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
    """Weights whose model has a billion layers."""
    ours = {"schema_version": 1, "model": {"name": "cct_2_3x1", "num_layers": 10**9}, "class_names": ["a"] * 10}
    header = json.dumps({"__metadata__": {"cctkit": json.dumps(ours)}, "a": _entry(2**50)}).encode()
    (folder / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return ["eval", str(folder / "w.safetensors")], {}


def _entry(size: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}


def _lines(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
    """Metrics of a terabyte, of which the disk holds nothing."""
    (folder / "run").mkdir()
    with open(folder / "run" / "metrics.jsonl", "wb") as file:
        file.truncate(2**40)
    return ["curves", str(folder / "run")], {}


def _settings(folder: Path) -> tuple[list[str], dict[str, DatasetRow]]:
    """Settings without an end."""
    return ["train", "--dataset", "digits", "--config", "/dev/zero"], {}


BOMBS: Mapping[str, Callable[[Path], tuple[list[str], dict[str, DatasetRow]]]] = {
    "PNG of 20,000 x 20,000 pixels": _image(lambda: png_bomb(20_000), "png"),
    "PNG with a comment of a gigabyte": _image(_png_text, "png"),
    "JPEG of 65,500 x 65,500 pixels": _image(_jpeg, "jpg"),
    "GIF of 65,535 x 65,535 pixels": _image(_gif, "gif"),
    "BMP of 100,000 x 100,000 pixels": _image(_bmp, "bmp"),
    "gzip of a gigabyte": _gzip_of_a_gigabyte,
    "tar member of a gigabyte": _tar_of_a_gigabyte,
    "pickle that claims 2 GiB": _pickle_of_a_gigabyte,
    "compressed .pth file": _pth(_deflated),
    ".pth tensor of four terabytes": _pth(_expanded),
    "weights of a petabyte": _header,
    "metrics of a terabyte": _lines,
    "settings without an end": _settings,
}


def faults_of_bomb(name: str, folder: Path, *, most_bytes: int = MOST_BYTES) -> Iterator[str]:
    """What is wrong with how the command takes this bomb: exit 2, three lines, and less than a gigabyte are expected."""
    folder.mkdir(parents=True)
    words, rows = BOMBS[name](folder)
    before = _tree(folder)
    with limits() as memory, mock.patch("cctkit.data.images.DATASETS", MappingProxyType({**DATASETS, **rows})):
        code, _, err = printed_by(words)
    if code != 2:
        yield f"exit code {code}, expected 2: {err[-300:]!r}"
    if len(err[max(0, err.find("error:")) :].splitlines()) > 3:
        yield f"more than three lines: {err[-500:]!r}"
    if memory.grown() > most_bytes:
        yield f"it takes {memory.grown() / 2**20:,.0f} MB"
    journal = {str(folder / f"new.part{ending}") for ending in ("", ".rows")}  # from which `--skip-bad` goes on
    if wrote := _tree(folder) - before - journal:
        yield f"it wrote {sorted(wrote)}"


def exploits_run(folder: Path) -> Iterator[tuple[str, str]]:
    """Each hostile `.pth` file in each form, and what is wrong with how it is read: it has to be refused, and run nothing."""
    from tests.models.test_foreign import exploits

    for form in ("zip", "legacy", "bare pickle"):
        for name in exploits(Path("x")):
            plain = f"{form}-{name}".replace(" ", "-")  # a shell would split it at the blanks
            mark, path = folder / f"{plain}.mark", folder / f"{plain}.pth"
            payload = exploits(mark)[name]
            if form == "bare pickle":
                path.write_bytes(pickle.dumps(payload))
            else:
                torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
            try:
                read_foreign(path)
                yield f"{name}, {form}", "it is accepted"
            except UserError:
                yield f"{name}, {form}", "it ran" if mark.exists() else ""
