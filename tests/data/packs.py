"""Packing a folder, for the tests of it."""

from pathlib import Path
from typing import Any

from cctkit.config import DataConfig
from cctkit.data.dataset import pack_dataset


def pack(folder: Path, path: Path, *, skip_bad: bool = False, size: int = 4, **options: Any) -> bytes:
    """The packed file of `folder`."""
    pack_dataset(DataConfig(dataset=str(folder), skip_bad=skip_bad, image_size=(size, size)), path, **options)
    return path.read_bytes()


def runs(process: int) -> bool:
    """Whether a process of this id is there and no zombie."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
