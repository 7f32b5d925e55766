"""What the folders of a data set's folder are: parts (train, val, test) or classes."""

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
    """Whether a file or folder of this name is looked at."""
    return not name.startswith(".") and name not in _IGNORED


def subfolders(folder: str) -> list[tuple[str, str]]:
    """(name, path) of the folders right inside, sorted."""
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.path) for entry in found if visible(entry.name) and is_folder(entry))


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder, or leads to one: a link to itself does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def parts_of(root: str, finds: Finds) -> list[Part]:
    """The parts; one, `all`, where the split is still to be made. A `val` without a `test` counts as the test.

    `train/` is a part where it has folders of its own: images right inside it make it a class of that name, if there are
    classes of other names. Other spellings (`Train`, `testing`) are parts where no folder with images is anything else: a
    class may be called so.

    Raises: UserError where it is neither parts nor classes.
    """
    folders = dict(subfolders(root))
    parts = {name: role for name, role in _ROLE_FOLDERS.items() if name in folders and subfolders(folders[name])}
    if len(parts) < 2 or "train" not in parts:
        parts = _spelled(folders) or parts
    if "train" not in parts.values():
        if folders and parts.keys() == folders.keys():
            raise UserError(
                f"there is {'/, '.join(map(safe_text, parts))}/ but no train/ with images to learn from",
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
                f"{safe_text(train)}/ holds folders, {safe_text(images[0])}/ is one of images: neither split nor classes",
                safe_text(root),
                "name the other side test/ or val/, or give --dataset the folder train/ itself",
            )
        found: list[Part] = [("all", folders[train])]
    else:
        found = _sorted_parts(parts, folders, root)
    for name in others:
        finds.add("beside", name)
    return found


def _spelled(folders: dict[str, str]) -> dict[str, Role] | None:
    """The role of every folder with folders of its own, if every folder with images is named like one."""
    roles = {name: role for name in folders if (role := _role_of(name)) is not None and subfolders(folders[name])}
    if not roles or any(_has_image(path) for name, path in folders.items() if _role_of(name) is None):
        return None
    return roles


def _refuse_parts_without_classes(folders: dict[str, str], root: str) -> None:
    """Images right inside of `train/` and `test/` tell no class; to take these two for the classes would mean nothing.

    Raises: UserError.
    """
    roles = {name: _role_of(name) for name, path in folders.items() if _has_image(path)}
    flat = [name for name in roles if not subfolders(folders[name])]
    if flat and len(roles) > 1 and "train" in roles.values() and None not in roles.values():
        raise UserError(
            f"{safe_text(flat[0])}/ is a part by its name, and has images, but no folders of classes",
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
            raise UserError(f"there is more than one of {'/, '.join(same)}/", safe_text(root), "keep one")
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
