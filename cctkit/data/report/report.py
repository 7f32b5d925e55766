"""Report on a data set before training, as lines to print."""

from collections.abc import Mapping
from dataclasses import dataclass

from cctkit.config.size import Size
from cctkit.data.packed.read import Packed
from cctkit.data.report.findings import FaultsError, Finding
from cctkit.data.streamed import Streamed
from cctkit.text import counted, safe_text

_UNEVEN = 10
"""Ratio of the largest class to the smallest from which there is a warning."""
_UNEVEN_TEXT = "class imbalance, {:.0f} to 1: the accuracy can be high even if small classes are not recognised"
_LARGER = (128, 96, 64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataReport:
    """What is printed about a data set.

    place: the folder or packed file; None for a named data set.
    parts: split -> number of images per class, in the order of `store.class_names`.
    image_size: of the model's input, as it was asked for; None: that of the stored images.
    findings: what was found besides images.
    folders: for a folder, each split and the name of its subfolder.
    """

    name: str
    place: str | None
    store: Packed | Streamed
    parts: Mapping[str, tuple[int, ...]]
    split_made: bool
    image_size: Size | None
    findings: tuple[Finding, ...]
    folders: tuple[tuple[str, str], ...]

    @property
    def per_class(self) -> tuple[int, ...]:
        """Number of images per class in all splits."""
        return tuple(map(sum, zip(*self.parts.values(), strict=True)))

    def lines(self) -> list[str]:
        """Lines to print; one line for a named data set without findings."""
        found = self.summary()
        findings = [finding for finding in (self.uneven(), *self.findings) if finding is not None]
        for finding in sorted(findings, key=lambda finding: finding.level == "ignored"):
            found += finding.lines()
        return found

    def summary(self) -> list[str]:
        """The lines without findings."""
        if self.place is None:
            return [f"data: {safe_text(self.name)}, {self._images()}; classes: {self._classes()}; {self._treatment()}"]
        return [
            f"data: {safe_text(self.place)}",
            f"  images: {self._images()}",
            f"  classes: {self._classes()}",
            f"  sizes: {self._sizes()}",
            f"  preprocessing: {self._treatment()}",
        ]

    def _images(self) -> str:
        numbers = ", ".join(f"{sum(each):,} {'not split yet' if part == 'all' else part}" for part, each in self.parts.items())
        made = " (stratified split)" if self.split_made else ""
        called = ", ".join(f"{folder}/ is {role}" for role, folder in self.folders if folder not in (".", role))
        return numbers + made + (f"; {safe_text(called)}" if called else "")

    def _classes(self) -> str:
        numbers, without = self._to_train_with()
        if min(numbers) == max(numbers):
            return f"{len(numbers)}, each of {counted(numbers[0], 'image')}{without}"
        least, most = min(numbers), max(numbers)
        names = [safe_text(self.store.class_names[numbers.index(number)], 40) for number in (least, most)]
        return f"{len(numbers)}, of {least:,} ('{names[0]}') to {most:,} images ('{names[1]}'){without}"

    def uneven(self) -> Finding | None:
        """Warning if the largest class has many times as many images as the smallest; see `_to_train_with`."""
        numbers, _ = self._to_train_with()
        ratio = max(numbers) / max(1, min(numbers))
        return None if ratio < _UNEVEN else Finding(kind="uneven", level="warning", text=_UNEVEN_TEXT.format(ratio), number=1)

    def _to_train_with(self) -> tuple[tuple[int, ...], str]:
        """Number of images per class, without the test images if these were given; and words for that."""
        if not any(role == "test" for role, _ in self.folders):
            return self.per_class, ""
        kept = [numbers for part, numbers in self.parts.items() if part != "test"]
        return tuple(map(sum, zip(*kept, strict=True))), ", not counting test"

    def _sizes(self) -> str:
        seen = self.store.seen
        if seen is None:
            return "unknown, because an earlier version packed the file"
        of = f"in a sample of {seen.num_images} images: " if isinstance(self.store, Streamed) else ""
        if seen.num_sizes == 1:
            return f"{of}all {_photo(seen.largest)}"
        common = ", ".join(f"{_photo((height, width))} ({number:,})" for height, width, number in seen.sizes[:3])
        others = f" and {seen.num_sizes - 3:,} more" if seen.num_sizes > 3 else ""
        return f"{of}{common}{others}; from {_photo(seen.smallest)} to {_photo(seen.largest)}, width x height"

    def _treatment(self) -> str:
        stored, mode, seen = self.store.image_size, self.store.resize_mode, self.store.seen
        height, width = stored
        size = f"{height}x{width}" + ("" if height == width else " (height x width)")
        image_size = self.image_size or stored
        then = "" if stored == image_size else f", then upsampled to {image_size[0]}x{image_size[1]}"
        if seen is None:
            return size + then
        sizes = [(high, wide) for high, wide, _ in seen.sizes]
        if sizes == [stored]:
            return f"{size}, not resized{then}"
        cut = any(high * width != wide * height for high, wide in sizes)
        shaping = "" if not cut else "squashed and " if mode == "squash" else "center-cropped and "
        larger = [high >= height and wide >= width for high, wide in sizes]
        smaller = mode == "crop" or all(high <= height and wide <= width for high, wide in sizes)
        scaled = "downsampled" if all(larger) else "resized" if any(larger) or not smaller else "upsampled"
        return f"{shaping}{scaled} to {size}{then}{self._advice(min(sizes[0]))}"

    def _advice(self, side: int) -> str:
        """A hint if images are larger than what the model sees.

        side: the shorter side of the most common size.
        """
        better = next((size for size in _LARGER if size <= side), None)
        if self.image_size is not None or better is None or better <= max(self.store.image_size):
            return ""
        return f"; --image-size {better} keeps more"


def _photo(size: Size) -> str:
    """`640x480`: width first, as is usual for photos."""
    return f"{size[1]}x{size[0]}"


def fault_lines(error: FaultsError) -> list[str]:
    """All faults of a data set, with up to 20 names per kind."""
    return [f"data: {error.where or ''}", *(line for found in (*error.faults, *error.beside) for line in found.lines())]
