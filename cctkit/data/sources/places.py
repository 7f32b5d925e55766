"""Find a data set by its name, without torch and before anything is read."""

import os
from pathlib import Path

import platformdirs

from cctkit.catalog.datasets import DATASETS
from cctkit.config.settings import DataConfig
from cctkit.data.sources.archives import check_offline
from cctkit.data.sources.folder import check_layout
from cctkit.errors import UserError
from cctkit.text import did_you_mean, safe_text


def data_dir(config: DataConfig) -> Path:
    """Where named data sets are kept: --data-dir, CCTKIT_DATA, or the user's cache."""
    return Path(config.data_dir or os.environ.get("CCTKIT_DATA") or Path(platformdirs.user_cache_dir("cctkit")) / "data")


def cache_folder() -> Path:
    """Folder of what can be made or downloaded again: CCTKIT_CACHE, or the user's cache."""
    return Path(os.environ.get("CCTKIT_CACHE") or platformdirs.user_cache_dir("cctkit"))


def place_of(name: str | None) -> Path | None:
    """The folder or packed file of this name; None for a named data set, or without a name.

    Raises: UserError if there is no such folder, file or data set.
    """
    if name is None or name in DATASETS:
        return None
    path = Path(name)
    try:
        if name and path.exists():
            return path.resolve()
    except (OSError, ValueError):  # the file system does not accept the name
        pass
    remedy = did_you_mean(name, DATASETS, f"a folder of images, or one of: {', '.join(DATASETS)}")
    raise UserError("no such folder, packed file or data set", safe_text(name) or "--dataset", remedy)


def streamed_folder(config: DataConfig) -> Path:
    """The folder to stream.

    Raises: UserError if it is not a folder.
    """
    folder = place_of(config.dataset)
    if folder is None or not folder.is_dir():
        raise UserError("only a folder of images can be streamed", "--stream", "leave it out, or give a folder to --dataset")
    return folder


def check_place(config: DataConfig) -> None:
    """Look for the data in `config`, within milliseconds: by the names of the outer folders, without reading images.

    Raises: UserError if there is none, or the folder has neither splits nor classes.
    """
    name = config.dataset
    if config.stream:
        check_layout(streamed_folder(config))
    elif (path := place_of(name)) is not None:
        if path.is_dir():
            check_layout(path)
    elif name is not None and not config.download:
        check_offline(name, DATASETS[name], data_dir(config))
