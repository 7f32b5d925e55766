"""Image properties that resizing hides: original sizes, 16-bit gray, further pages."""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cctkit.config.size import Size
from cctkit.data.packed.decode import GOOD, NO_PEAK, Rows
from cctkit.data.preprocess import peek, strict_pillow
from cctkit.data.report.findings import NAMED, Finding
from cctkit.data.source import BadImageError, Source
from cctkit.text import counted, safe_text

_COMMON = 5
_PEEKED = 64
_SHALLOW = 2**14 - 1
"""Largest 14-bit value: 16-bit gray that stays below it looks nearly black."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    """Number of images with some property, and the first few ids."""

    number: int = 0
    ids: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: Any) -> "Some":
        if not all(isinstance(name, str) for name in values["ids"]):
            raise ValueError("what was seen has ids that are no names")
        return cls(number=int(values["number"]), ids=tuple(values["ids"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Properties of the original images.

    num_images: good images inspected.
    num_sizes: number of different sizes.
    sizes: (height, width, images) of the most common sizes.
    deep: images with more than 8 bits of gray.
    shallow: those of them that use at most 14 bits, with values up to `peak`.
    paged: images with further pages or frames.
    """

    num_images: int
    num_sizes: int
    sizes: tuple[tuple[int, int, int], ...]
    smallest: Size
    largest: Size
    deep: int = 0
    shallow: Some = Some()
    peak: int = 0
    paged: Some = Some()

    @classmethod
    def of_rows(cls, rows: Rows, ids: Sequence[str]) -> "Seen":
        """Collect the properties after packing; rows: of `packed.decode.ROW`, one per image."""
        kept = np.flatnonzero(rows["state"] == GOOD)
        return cls._of(rows["size"][kept], rows["peak"][kept], rows["more_pages"][kept], kept, ids)

    @classmethod
    def of_some(cls, place: str, source: Source) -> "Seen | None":
        """Inspect a sample of a folder, mostly by image headers; None if no image can be read."""
        numbers, sizes, peaks, paged = [], [], [], []
        with strict_pillow():
            for i in np.unique(np.linspace(0, len(source.ids) - 1, _PEEKED).astype(np.int64)):
                with contextlib.suppress(BadImageError):
                    size, is_special = peek(os.path.join(place, source.ids[int(i)]))
                    image = source.read(int(i)) if is_special else None
                    peaks.append(NO_PEAK if image is None or image.peak is None else image.peak)
                    paged.append(image is not None and image.more_pages)
                    sizes.append(size)
                    numbers.append(i)
        return cls._of(np.array(sizes), np.array(peaks), np.array(paged), np.array(numbers), source.ids) if numbers else None

    @classmethod
    def _of(cls, sizes: Any, peaks: Any, paged: Any, numbers: Any, ids: Sequence[str]) -> "Seen":
        def some(chosen: Any) -> Some:
            return Some(number=int(chosen.sum()), ids=tuple(safe_text(ids[int(i)]) for i in numbers[chosen][:NAMED]))

        each, counts = np.unique(sizes.astype(np.uint64) @ np.array([2**32, 1], dtype=np.uint64), return_counts=True)
        height, width = (each >> np.uint64(32)).astype(np.int64), (each & np.uint64(2**32 - 1)).astype(np.int64)
        common = np.argsort(-counts, kind="stable")[:_COMMON]
        areas = height * width
        shallow = (peaks >= 0) & (peaks <= _SHALLOW)
        return cls(
            num_images=len(numbers),
            num_sizes=len(each),
            sizes=tuple((int(height[i]), int(width[i]), int(counts[i])) for i in common),
            smallest=(int(height[areas.argmin()]), int(width[areas.argmin()])),
            largest=(int(height[areas.argmax()]), int(width[areas.argmax()])),
            deep=int((peaks >= 0).sum()),
            shallow=some(shallow),
            peak=int(peaks[shallow].max(initial=0)),
            paged=some(paged),
        )

    @classmethod
    def from_json(cls, text: str) -> "Seen":
        """What `as_json` gave.

        Raises: ValueError, KeyError or TypeError.
        """
        values = json.loads(text)
        smallest, largest = ((int(height), int(width)) for height, width in (values["smallest"], values["largest"]))
        return cls(
            num_images=int(values["num_images"]),
            num_sizes=int(values["num_sizes"]),
            sizes=tuple((int(height), int(width), int(number)) for height, width, number in values["sizes"]),
            smallest=smallest,
            largest=largest,
            deep=int(values["deep"]),
            shallow=Some.from_json(values["shallow"]),
            peak=int(values["peak"]),
            paged=Some.from_json(values["paged"]),
        )

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    def findings(self) -> list[Finding]:
        """What a user should know before training."""
        found = []
        if self.shallow.number * 2 > self.deep:  # else they are dark images of a set that uses the full range
            text = (
                f"{counted(self.shallow.number, 'image')} with 16 bits but no value above {self.peak:,} of 65,535: nearly black"
            )
            remedy = "rescale them to 0 to 65,535, or save them with 8 bits"
            found.append(Finding.of("shallow", "warning", text, self.shallow.ids, number=self.shallow.number, remedy=remedy))
        if self.paged.number:
            text = f"{counted(self.paged.number, 'file')} with several pages or frames: only the first is read"
            found.append(Finding.of("pages", "ignored", text, self.paged.ids, number=self.paged.number))
        return found
