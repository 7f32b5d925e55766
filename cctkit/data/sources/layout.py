"""Tell whether the folders in a data set are splits (train, val, test) or classes."""

import os
import re

from cctkit.data.preprocess import suffixes
from cctkit.data.report.findings import Finds
from cctkit.data.source import ROLES, Role
from cctkit.errors import UserError
from cctkit.text import safe_text

_ROLE_FOLDERS: dict[str, Role] = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_SPELLINGS = _ROLE_FOLDERS | {
    **dict.fromkeys(("training", "trn"), "train"),
    **dict.fromkeys(("testing", "tst", "eval", "evaluation"), "test"),
    **dict.fromkeys(("vali", "validate", "validating", "dev", "devel"), "val"),
}
_ENDINGS = re.compile(r"(set|data|dataset|images?|imgs?|split)$")
_IGNORED = {"__MACOSX"}

Part = tuple[Role, str]
"""A role and its folder."""


def visible(name: str) -> bool:
    """Whether a file or folder of this name is used."""
    return not name.startswith(".") and name not in _IGNORED


def subfolders(folder: str) -> list[tuple[str, str]]:
    """(name, path) of the direct subfolders, sorted."""
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.path) for entry in found if visible(entry.name) and is_folder(entry))


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder or a link to one; false for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def parts_of(root: str, finds: Finds) -> list[Part]:
    """The splits, or one part `all` if the folder is not split. A `val` without a `test` counts as the test split.

    `train/` is a split if it has subfolders; if it has images directly inside, it is a class named train. Other spellings
    (`Train`, `testing`) are splits only if every folder with images is one, since a class may have such a name.

    Raises: UserError if the folder has neither splits nor classes.
    """
    folders = dict(subfolders(root))
    parts = {name: role for name, role in _ROLE_FOLDERS.items() if name in folders and subfolders(folders[name])}
    if len(parts) < 2 or "train" not in parts:
        parts = _spelled(folders) or parts
    if "train" not in parts.values():
        if folders and parts.keys() == folders.keys():
            raise UserError(
                f"there is {'/, '.join(map(safe_text, parts))}/ but no train/",
                safe_text(root),
                "expected train/CLASS/* beside it, or just CLASS/*",
            )
        _refuse_parts_without_classes(folders, root)
        return [("all", root)]
    others = [name for name in folders if name not in parts]
    if len(parts) == 1:
        (train,) = parts
        if images := [name for name in others if _has_image(folders[name])]:
            raise UserError(
                f"{safe_text(train)}/ has folders and {safe_text(images[0])}/ has images: neither splits nor classes",
                safe_text(root),
                "name the other folder test/ or val/, or pass train/ itself to --dataset",
            )
        found: list[Part] = [("all", folders[train])]
    else:
        found = _sorted_parts(parts, folders, root)
    for name in others:
        finds.add("beside", name)
    return found


def _spelled(folders: dict[str, str]) -> dict[str, Role] | None:
    """The role of every folder with subfolders, if every folder with images has the name of a split."""
    roles = {name: role for name in folders if (role := _role_of(name)) is not None and subfolders(folders[name])}
    if not roles or any(_has_image(path) for name, path in folders.items() if _role_of(name) is None):
        return None
    return roles


def _refuse_parts_without_classes(folders: dict[str, str], root: str) -> None:
    """Refuse `train/` and `test/` with images directly inside: they are not classes, and the images have none.

    Raises: UserError.
    """
    roles = {name: _role_of(name) for name, path in folders.items() if _has_image(path)}
    flat = [name for name in roles if not subfolders(folders[name])]
    if flat and len(roles) > 1 and "train" in roles.values() and None not in roles.values():
        raise UserError(
            f"{safe_text(flat[0])}/ has the name of a split, but images and no class folders",
            safe_text(root),
            "expected train/CLASS/* and test/CLASS/*",
        )


def _role_of(name: str) -> Role | None:
    """`Train`, `training_set` and `train2017` -> train."""
    return _SPELLINGS.get(_ENDINGS.sub("", re.sub(r"[^a-z]", "", name.casefold())))


def _sorted_parts(parts: dict[str, Role], folders: dict[str, str], root: str) -> list[Part]:
    named = [(role, folders[name]) for name, role in parts.items()]
    roles = [role for role, _ in named]
    for role in ("train", "val", "test"):
        if roles.count(role) > 1:
            same = [safe_text(name) for name, its in parts.items() if its == role]
            raise UserError(f"{'/ and '.join(same)}/ are the same split", safe_text(root), "keep one")
    if "test" not in roles:
        named = [("test" if role == "val" else role, path) for role, path in named]
    return sorted(named, key=lambda part: ROLES.index(part[0]))


def _has_image(folder: str) -> bool:
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        folders[:] = [] if real in seen else filter(visible, folders)
        seen.add(real)
        if any(visible(name) and os.path.splitext(name)[1].lower() in suffixes() for name in files):
            return True
    return False
