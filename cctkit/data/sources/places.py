"""Where images are, and what can be told of them without torch, before anything is read."""

import os
from pathlib import Path

import platformdirs

from cctkit.catalog.datasets import DATASETS
from cctkit.config.settings import DataConfig
from cctkit.data.sources.archives import check_offline
from cctkit.data.sources.folder import check_layout
from cctkit.errors import UserError
from cctkit.text import nearest, safe_text


def data_dir(config: DataConfig) -> Path:
    """Where named data sets are kept: --data-dir, CCTKIT_DATA, or the user's cache."""
    return Path(config.data_dir or os.environ.get("CCTKIT_DATA") or Path(platformdirs.user_cache_dir("cctkit")) / "data")


def existing(name: str) -> Path:
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


def streamed_folder(config: DataConfig) -> Path:
    """The folder that is to be streamed.

    Raises: UserError where it is none.
    """
    folder = None if config.dataset is None or config.dataset in DATASETS else existing(config.dataset)
    if folder is None or not folder.is_dir():
        raise UserError("only a folder of images can be streamed", "--stream", "leave it out, or give a folder to --dataset")
    return folder


def check_place(config: DataConfig) -> None:
    """Look for the data that `config` names, within milliseconds: no image is read, no folder of a class gone through.

    Raises: UserError where there is none, or it is no data set by its folders alone.
    """
    name = config.dataset
    if config.stream:
        check_layout(streamed_folder(config))
    elif name is not None and name in DATASETS:
        if not config.download:
            check_offline(name, DATASETS[name], data_dir(config))
    elif name is not None and (path := existing(name)).is_dir():
        check_layout(path)
