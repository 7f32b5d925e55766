"""Packing a folder, for the tests of it."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

from cctkit.config.settings import DataConfig
from cctkit.data.images import pack_dataset
from cctkit.data.packed.read import KEY


def pack(folder: Path, path: Path, *, skip_bad: bool = False, size: int = 4, **options: Any) -> bytes:
    """The packed file of `folder`."""
    pack_dataset(DataConfig(dataset=str(folder), skip_bad=skip_bad, image_size=(size, size)), path, **options)
    return path.read_bytes()


def images_in(path: Path) -> range:
    """Where the bytes of the images are in a packed file."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    start, stop = json.loads(path.read_bytes()[8 : 8 + size])["images"]["data_offsets"]
    return range(8 + size + start, 8 + size + stop)


def change_bytes(path: Path, change: bytes, *, at: int) -> None:
    """Change some bytes of a file where it is, from `at` on."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(change)


def without_checksums(path: Path) -> Path:
    """A packed file as versions before the checksums, and the digests of pixels alone, wrote it."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()[KEY]) | {"schema_version": 2}
        names = set(file.keys()) - {"checksums", "pixel_digests"}
        tensors = {name: file.get_tensor(name) for name in names}
    del header["digest"]
    save_file(tensors, path, {KEY: json.dumps(header)})
    return path


def runs(process: int) -> bool:
    """Whether a process of this id is there and no zombie."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
