"""Find class folders that are probably mistakes: spelled alike, nested, or with few images."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from cctkit.data.check.finding import CheckFinding
from cctkit.data.source import Labels
from cctkit.text import counted, safe_text

_FEW = 20
_NAMED = 4


def spelled_alike(class_folders: Mapping[str, Sequence[str]]) -> Iterator[CheckFinding]:
    """Classes whose names differ by case, spaces, hyphens or underscores only; class_folders: class -> its folders."""
    by_key: dict[str, list[str]] = {}
    for name in class_folders:
        key = unicodedata.normalize("NFKC", name).casefold()
        by_key.setdefault("".join(each for each in key if not each.isspace() and each not in "-_"), []).append(name)
    groups = [names for names in by_key.values() if len(names) > 1]
    if groups:
        shown = "; ".join(", ".join(repr(safe_text(name, 60)) for name in group) for group in groups[:_NAMED])
        yield CheckFinding.of_groups(
            "classes_alike",
            "error",
            f"classes that differ by case, spaces or hyphens only: {shown}{'; ...' if len(groups) > _NAMED else ''}",
            [tuple(folder for name in group for folder in class_folders[name]) for group in groups],
            "move the images of each line into folders of one name",
        )


def nested(ids: Sequence[str], labels: Labels, class_names: Sequence[str], folders: Sequence[str]) -> Iterator[CheckFinding]:
    """Images in subfolders of a class folder, which count as images of that class.

    folders: of the splits, as paths inside the data set.
    """
    depths = {folder: 1 if folder == "." else folder.count("/") + 2 for folder in folders}
    names = {name.casefold() for name in class_names}
    found: dict[str, int] = {}
    of_class: set[str] = set()
    for name, label in zip(ids, labels.tolist(), strict=True):
        depth = max((depth for folder, depth in depths.items() if folder == "." or name.startswith(f"{folder}/")), default=1)
        inner = name.split("/")[depth:-1]
        if not inner:
            continue
        folder = name.rsplit("/", 1)[0]
        found[folder] = found.get(folder, 0) + 1
        if any(part.casefold() in names and part != class_names[label] for part in inner):
            of_class.add(folder)
    if of_class:
        number = sum(found[folder] for folder in of_class)
        yield CheckFinding(
            kind="nested_class",
            severity="warning",
            text=f"{counted(number, 'image')} in a class folder inside of another one: they count as the outer class",
            paths=tuple(sorted(of_class)),
            remedy="move the inner folder beside the outer one, if its images are of that class",
        )
    if others := sorted(found.keys() - of_class):
        number = sum(found[folder] for folder in others)
        yield CheckFinding(
            kind="nested_folder",
            severity="note",
            text=f"{counted(number, 'image')} in {counted(len(others), 'folder')} inside of class folders",
            paths=tuple(others),
            remedy="nothing is needed if they are images of that class",
        )


def few_images(numbers: Sequence[int], class_folders: Mapping[str, Sequence[str]]) -> Iterator[CheckFinding]:
    """Classes with few training images.

    numbers: of training images, per class.
    class_folders: class -> its folders, that of the training images first.
    """
    few = [folders[0] for number, folders in zip(numbers, class_folders.values(), strict=True) if number < _FEW]
    if few:
        yield CheckFinding(
            kind="few_images",
            severity="warning",
            text=f"{counted(len(few), 'class', 'classes')} with fewer than {_FEW} training images",
            paths=tuple(few),
            remedy="add images, or leave the class out",
        )
