"""A folder whose images are decoded each time they are used, because it is too large to pack.

Its *fingerprint* covers the files' roles, class names, relative paths and sizes (`Origin.listing`), since no pixels are read
before training. It does not depend on the location and the file times, does not notice a changed file of the same size, and
never equals that of the packed folder.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cctkit.config.size import Size
from cctkit.data.preprocess import Preprocess, strict_pillow
from cctkit.data.report.seen import Seen
from cctkit.data.source import BadImageError, Labels, Origin, Progress, Roles, check_broken, digest_of
from cctkit.text import safe_text

_KIND = "files:"
_MARGIN = 8 / 7  # 256 pixels for 224: a crop of 80% of the area (the default minimum) is then not upsampled


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Streamed:
    """M images of a folder, which are not read yet.

    preprocess: how `take` reads an image.
    labels, roles: (M,).
    order: int64 (M,), the first 8 bytes of the digest of each id, by which splits are made.
    seen: properties of a sample of the images.
    """

    name: str
    place: str
    class_names: tuple[str, ...]
    fingerprint: str
    preprocess: Preprocess
    labels: Labels
    roles: Roles
    order: np.ndarray[Any, np.dtype[np.int64]]
    all_ids: Sequence[str]
    skipped: tuple[str, ...] = ()
    pixel_digests: None = None  # nothing is read before training
    seen: Seen | None = None

    @property
    def image_size(self) -> Size:
        """(height, width) of what `take` returns."""
        return self.preprocess.stored_size

    @property
    def resize_mode(self) -> Literal["crop", "squash"]:
        return self.preprocess.resize_mode

    def take(self, rows: Labels) -> Tensor:
        """Decode these images: uint8 (b, 3, H, W), as packing would store them, except for `reduce_jpeg`.

        Raises: UserError naming the broken images.
        """
        images = np.empty((len(rows), 3, *self.image_size), dtype=np.uint8)
        bad = []
        with strict_pillow():
            for image, i in zip(images, rows, strict=True):
                try:
                    image[:] = self.preprocess.load(os.path.join(self.place, self.all_ids[int(i)]))
                except BadImageError as error:
                    bad.append(f"{safe_text(self.all_ids[int(i)])}: {safe_text(error)}")
        check_broken(
            bad, self.place, remedy="fix or remove them, and start again; packing (without --stream) finds all broken images"
        )
        return torch.from_numpy(images)

    def ids(self, rows: Labels) -> list[str]:
        """The ids of some images."""
        return [self.all_ids[int(i)] for i in rows]

    def for_training(self, *, margin: bool) -> "Streamed":
        """The same images, decoded faster.

        margin: read them larger than the model's input, for random crops that are resized.
        """
        height, width = (round(side * _MARGIN) if margin else side for side in self.image_size)
        return replace(self, preprocess=replace(self.preprocess, stored_size=(height, width), reduce_jpeg=True))


def open_streamed(origin: Origin, preprocess: Preprocess, progress: Progress) -> Streamed:
    """List the images of a folder without reading them."""
    assert origin.listing is not None
    assert origin.place is not None
    source = origin.load(progress)
    heads = b"".join(bytes.fromhex(digest_of(name)[:16]) for name in source.ids)
    return Streamed(
        name=source.name,
        place=origin.place,
        class_names=source.class_names,
        fingerprint=_KIND + origin.listing,
        preprocess=preprocess,
        labels=source.labels,
        roles=source.roles,
        order=np.frombuffer(heads, dtype="<i8"),
        all_ids=source.ids,
        seen=Seen.of_some(origin.place, source),
    )


def is_of_streamed(fingerprint: str) -> bool:
    """Whether this is the fingerprint of a streamed folder."""
    return fingerprint.startswith(_KIND)
