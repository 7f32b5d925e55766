"""Find images of a split that are also in another split, or among the training images of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cctkit.data.copies import Digests, contains
from cctkit.data.source import Labels
from cctkit.data.splits import Dataset, Split
from cctkit.data.splitting import BY_PIXELS, Flags
from cctkit.digests import check_digest, sealed
from cctkit.errors import UserError
from cctkit.runs.runfiles import in_utf8
from cctkit.text import counted, safe_text

_NAMED = 3
_KEY = "cctkit.seen"
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlap:
    """The images of a split that have copies in another split.

    positions: (m,), in this split.
    there: (m,), position of a copy in the other split, of the same class if there is one.
    other_class: bool (m,), whether all copies are of another class.
    """

    positions: Labels
    there: Labels
    other_class: Flags

    def __len__(self) -> int:
        return len(self.positions)


def overlap(split: Split, other: Split) -> Overlap | None:
    """Find the images of `split` that are also in `other`; None if copies are unknown, as in a streamed folder."""
    digests, others = split.pixel_digests(), other.pixel_digests()
    if digests is None or others is None:
        return None
    positions = np.flatnonzero(contains(np.sort(others), digests))
    copies = np.flatnonzero(contains(np.sort(digests[positions]), others))
    of_class: dict[tuple[int, int], int] = {}
    of_any: dict[int, int] = {}
    for digest, label, place in zip(others[copies].tolist(), other.labels[copies].tolist(), copies.tolist(), strict=True):
        of_class.setdefault((digest, label), place)
        of_any.setdefault(digest, place)
    own = list(zip(digests[positions].tolist(), split.labels[positions].tolist(), strict=True))
    return Overlap(
        positions=positions,
        there=np.array([of_class.get(key, of_any[key[0]]) for key in own], dtype=np.int64),
        other_class=np.array([key not in of_class for key in own], dtype=bool),
    )


def copies_notice(dataset: Dataset) -> str | None:
    """Notice before training if images occur more than once."""
    if (digests := dataset.train.store.pixel_digests) is None:
        why = "a streamed folder is not read before training" if dataset.is_streamed else "an earlier version packed the file"
        return f"copies of images in several splits: not checked, because {why}"
    pairs = (("test", "train"), ("val", "train"), ("test", "val"))
    splits = dataset.splits
    lines = [
        line
        for name, other in pairs
        if {name, other} <= splits.keys() and (line := _pair_notice(name, splits[name], other, splits[other]))
    ]
    if dataset.split_made and dataset.split_rule == BY_PIXELS and (number := len(digests) - len(np.unique(digests))):
        repeat = "is a copy of another" if number == 1 else "are copies of others"
        lines.append(f"{number:,} of the {counted(len(digests), 'image')} {repeat}; copies are kept in one split")
    return "\n".join(lines) or None


def _pair_notice(name: str, split: Split, other_name: str, other: Split) -> str | None:
    found = overlap(split, other)
    if not found:
        return None
    number, elsewhere = len(found), int(found.other_class.sum())
    examples = ", ".join(f"{safe_text(a, 60)} is {safe_text(b, 60)}" for a, b in _examples(found, split, other))
    return (
        f"{number:,} of the {counted(len(split), f'{name} image')} {'is' if number == 1 else 'are'} in {other_name} too"
        + (f", {elsewhere:,} under another class" if elsewhere else "")
        + f": {examples}"
        + (", ..." if number > _NAMED else "")
    )


def _examples(found: Overlap, split: Split, other: Split) -> list[tuple[str, str]]:
    """Ids of the first few images and of their copies."""
    return list(zip(split.only(found.positions[:_NAMED]).ids(), other.only(found.there[:_NAMED]).ids(), strict=True))


def copy_figures(split: Split, train: Split, is_correct: Flags) -> dict[str, Any]:
    """Result fields about the images of `split` that are also in `train`; is_correct: bool (n,), per image of `split`.

    All are None if copies are unknown; the accuracy is None if every image is a copy.
    """
    found = overlap(split, train)
    if found is None:
        return dict.fromkeys(("copies_in_train", "copies_of_another_class", "copies", "top1_percent_without_copies"))
    others = np.delete(is_correct, found.positions)
    return {
        "copies_in_train": len(found),
        "copies_of_another_class": int(found.other_class.sum()),
        "copies": [{"image": image, "in_train": copy} for image, copy in _examples(found, split, train)],
        "top1_percent_without_copies": 100 * int(others.sum()) / len(others) if len(others) else None,
    }


def seen_file(train: Split) -> bytes | None:
    """File of the digests of a run's training images, with which `eval` finds them in other data sets.

    None if they are unknown. Validation images are not included.
    """
    digests = train.pixel_digests()
    if digests is None:
        return None
    tensors = {"pixel_digests": np.unique(digests)}
    header = sealed({"schema_version": _SCHEMA}, save(tensors))
    return save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)})


def read_seen(path: Path) -> Digests | None:
    """Read the digests that `seen_file` has written, sorted; None if the file does not exist.

    Raises: UserError if it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with in_utf8(path) as readable, safe_open(readable, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            form = file.get_slice("pixel_digests")
            if header["schema_version"] != _SCHEMA or form.get_dtype() != "I64" or len(form.get_shape()) != 1:
                raise ValueError("it has another form")
            digests: Digests = file.get_tensor("pixel_digests")
        if not check_digest(path, _KEY):
            raise ValueError("its header has no digest")
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"the list of the images that the run was trained on is damaged: {safe_text(error)}",
            safe_text(path),
            "remove it to evaluate without the check",
        ) from error
    return digests


def seen_in_training(split: Split, seen: Digests | None) -> Labels | None:
    """Positions in `split` of images that the run was trained on; None if unknown."""
    digests = split.pixel_digests()
    return None if digests is None or seen is None else np.flatnonzero(contains(seen, digests))
