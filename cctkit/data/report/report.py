"""Report on a data set before training: as JSON and as lines to print."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from cctkit.config.size import Size
from cctkit.data.report.findings import FaultsError, Finding, broken_images
from cctkit.data.report.seen import Seen
from cctkit.data.source import Labels
from cctkit.text import counted, safe_text

_UNEVEN = 10
"""From this ratio of the largest class to the smallest on there is a warning."""
_UNEVEN_TEXT = "the largest class has {:.0f} times the images of the smallest: a high accuracy can hide that of the small ones"
_LARGER = (128, 96, 64)
_PURPOSES = {"train": "to train on", "val": "to choose the epoch by", "test": "to test on", "all": "not split yet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """parts: name of the part -> images of each class, in the order of class_names; folders: what the folder of each part is
    called, where it is a folder; seen: the images before they were resized, None where that is not known; is_sample: of a few
    of them; stored_size: in which they are augmented, image_size: that the model takes; size_chosen: it was asked for.
    """

    name: str
    place: str | None
    class_names: tuple[str, ...]
    parts: Mapping[str, tuple[int, ...]]
    folders: tuple[tuple[str, str], ...] = ()
    split_made: bool
    seen: Seen | None
    is_sample: bool
    stored_size: Size
    image_size: Size
    resize_mode: Literal["crop", "squash"]
    size_chosen: bool
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; a list of names has at most 20 entries."""
        return asdict(self) | {"findings": [finding.as_dict() for finding in self.findings]}

    @property
    def per_class(self) -> tuple[int, ...]:
        """Number of images per class in all splits."""
        return tuple(map(sum, zip(*self.parts.values(), strict=True)))

    def lines(self) -> list[str]:
        """Lines to print; one line for a named data set without findings."""
        if self.place is None:
            found = [f"data: {safe_text(self.name)}, {self._images()}; classes: {self._classes()}; {self._treatment()}"]
        else:
            found = [
                f"data: {safe_text(self.place)}",
                f"  images: {self._images()}",
                f"  classes: {self._classes()}",
                f"  sizes: {self._sizes()}",
                f"  read as: {self._treatment()}",
            ]
        findings = [finding for finding in (self._uneven(), *self.findings) if finding is not None]
        for finding in sorted(findings, key=lambda finding: finding.level == "ignored"):
            found += finding.lines()
        return found

    def _images(self) -> str:
        numbers = " and ".join(f"{sum(each):,} {_PURPOSES[part]}" for part, each in self.parts.items())
        made = ", split here within each class" if self.split_made else ""
        called = ", ".join(f"{folder}/ is {role}" for role, folder in self.folders if folder not in (".", role))
        return numbers + made + (f"; {safe_text(called)}" if called else "")

    def _classes(self) -> str:
        numbers = self.per_class
        least, most = min(numbers), max(numbers)
        if least == most:
            return f"{len(numbers)}, each of {counted(most, 'image')}"
        names = [safe_text(self.class_names[numbers.index(number)], 40) for number in (least, most)]
        return f"{len(numbers)}, of {least:,} ('{names[0]}') to {most:,} images ('{names[1]}')"

    def _uneven(self) -> Finding | None:
        ratio = max(self.per_class) / max(1, min(self.per_class))
        return None if ratio < _UNEVEN else Finding(kind="uneven", level="warning", text=_UNEVEN_TEXT.format(ratio), number=1)

    def _sizes(self) -> str:
        seen = self.seen
        if seen is None:
            return "not known, since the file was packed by an earlier version"
        of = f"of {seen.num_images} images looked at, " if self.is_sample else ""
        if seen.num_sizes == 1:
            return f"{of}all {_photo(seen.largest)}"
        common = ", ".join(f"{_photo((height, width))} ({number:,})" for height, width, number in seen.sizes[:3])
        others = f" and {seen.num_sizes - 3:,} more" if seen.num_sizes > 3 else ""
        return f"{of}{common}{others}; from {_photo(seen.smallest)} to {_photo(seen.largest)}, width x height"

    def _treatment(self) -> str:
        height, width = self.stored_size
        size = f"{height}x{width}" + ("" if height == width else " (height x width)")
        then = "" if self.stored_size == self.image_size else f", then enlarged to {self.image_size[0]}x{self.image_size[1]}"
        if self.seen is None:
            return size + then
        sizes = [(high, wide) for high, wide, _ in self.seen.sizes]
        if sizes == [self.stored_size]:
            return f"{size}, as they are{then}"
        cut = any(high * width != wide * height for high, wide in sizes)
        shaping = "" if not cut else "squashed and " if self.resize_mode == "squash" else "centre cut and "
        larger = [high >= height and wide >= width for high, wide in sizes]
        smaller = self.resize_mode == "crop" or all(high <= height and wide <= width for high, wide in sizes)
        scaled = "shrunk" if all(larger) else "brought" if any(larger) or not smaller else "enlarged"
        return f"{shaping}{scaled} to {size}{then}{self._advice(min(sizes[0]))}"

    def _advice(self, side: int) -> str:
        """side: the shorter one of the most common size."""
        better = next((size for size in _LARGER if size <= side), None)
        if self.size_chosen or better is None or better <= max(self.image_size):
            return ""
        return f"; --image-size {better} keeps more"


def _photo(size: Size) -> str:
    """As photos are named: width first."""
    return f"{size[1]}x{size[0]}"


def fault_lines(error: FaultsError) -> list[str]:
    """All that is wrong with a data set, of each kind up to 20 by name."""
    return [f"data: {error.where or ''}", *(line for found in (*error.faults, *error.beside) for line in found.lines())]


def left_out(skipped: Sequence[str]) -> tuple[Finding, ...]:
    """Broken images that --skip-bad has left out."""
    return (broken_images(skipped, level="ignored", remedy=None),) if skipped else ()


def numbers_of(labels: Labels, num_classes: int) -> tuple[int, ...]:
    """How many there are of each class."""
    return tuple(np.bincount(labels, minlength=num_classes).tolist())
