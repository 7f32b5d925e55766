"""Find what the headers of image files say: sizes, orientations, formats and bit depths that may surprise."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cctkit.config.size import Size
from cctkit.data.check.finding import CheckFinding
from cctkit.data.preprocess import Header, read_header, strict_pillow
from cctkit.data.source import BadImageError, Progress
from cctkit.text import counted

_READING = "reading image headers"
_HUGE_PIXELS = 25_000_000
_LONGEST = 2
"""Ratio of the sides from which cropping the centre discards more than half of an image."""
_MOST_OF_ONE_SIZE = 0.8
_EVERY = 256
_ENDINGS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm"},
    "AVIF": {".avif"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif"},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Headers:
    """The headers of n image files. A file that cannot be read has size 0 x 0.

    sizes: uint32 (n, 2), height and width as stored in the file.
    turned: (n,), whether the EXIF data says that the image is to be turned or mirrored.
    kinds: int16 (n,), index into `names`.
    names: pairs of format and pixel type, such as ("PNG", "16-bit grey").
    """

    sizes: np.ndarray[Any, np.dtype[np.uint32]]
    turned: np.ndarray[Any, np.dtype[np.bool_]]
    kinds: np.ndarray[Any, np.dtype[np.int16]]
    names: tuple[tuple[str, str], ...]


def read_headers(place: str, ids: Sequence[str], progress: Progress) -> Headers:
    """Read the header of every file in the folder `place`, without decoding its pixels.

    progress: called now and then; may raise to stop.
    """
    sizes, turned = np.zeros((len(ids), 2), dtype=np.uint32), np.zeros(len(ids), dtype=bool)
    kinds, numbers = np.zeros(len(ids), dtype=np.int16), {("", ""): 0}
    with strict_pillow():
        for i, name in enumerate(ids):
            if i % _EVERY == 0:
                progress(_READING, i, len(ids))
            try:
                header = read_header(os.path.join(place, name))
            except BadImageError:  # changed since it was packed
                continue
            sizes[i], turned[i] = header.size, header.turned
            kinds[i] = numbers.setdefault((header.format, _pixel_type(header)), len(numbers))
    return Headers(sizes=sizes, turned=turned, kinds=kinds, names=tuple(numbers))


def header_findings(headers: Headers, ids: Sequence[str], *, image_size: Size, crops: bool) -> Iterator[CheckFinding]:
    """What is unusual in the headers.

    image_size: (height, width) to which the images are resized.
    crops: whether their centre is cropped to that shape.
    """
    height, width = headers.sizes[:, 0].astype(np.int64), headers.sizes[:, 1].astype(np.int64)
    is_read = height > 0
    short, long = np.minimum(height, width), np.maximum(height, width)

    def paths(chosen: Any) -> tuple[str, ...]:
        return tuple(ids[int(i)] for i in np.flatnonzero(chosen & is_read))

    side = min(image_size)
    if tiny := paths(2 * short < side):
        yield CheckFinding(
            kind="tiny",
            severity="warning",
            text=f"{counted(len(tiny), 'tiny image')}, with a side under half of the {side} pixels that the model sees",
            paths=tiny,
            remedy="replace them by larger versions, or remove them",
        )
    if huge := paths(height * width > _HUGE_PIXELS):
        yield CheckFinding(
            kind="huge",
            severity="note",
            text=f"{counted(len(huge), 'huge image')} of more than {_HUGE_PIXELS // 10**6} megapixels",
            paths=huge,
            remedy="nothing is needed; smaller copies are decoded faster",
        )
    if crops and (narrow := paths(long > _LONGEST * short)):
        yield CheckFinding(
            kind="elongated",
            severity="warning",
            text=f"{counted(len(narrow), 'image')} more than twice as long as wide: more than half of each is cropped",
            paths=narrow,
            remedy="--resize-mode squash keeps everything; or cut the images yourself",
        )
    yield from _rotations(headers, paths)
    yield from _formats(headers, ids)


def _rotations(headers: Headers, paths: Any) -> Iterator[CheckFinding]:
    if turned := paths(headers.turned):
        yield CheckFinding(
            kind="rotated",
            severity="note",
            text=f"{counted(len(turned), 'rotated image')}, turned upright as the EXIF data says",
            paths=turned,
            remedy="nothing is needed; programs that ignore EXIF see them rotated: save them upright to be sure",
        )
    # With the orientation applied, photographs of one camera that lie on their side have its size with the sides swapped.
    upright = np.where(headers.turned[:, None], headers.sizes[:, ::-1], headers.sizes)
    (height, width), number = Counter(map(tuple, upright.tolist())).most_common(1)[0]
    sideways = paths((upright[:, 0] == width) & (upright[:, 1] == height))
    if height != width and number >= _MOST_OF_ONE_SIZE * len(upright) and sideways:
        yield CheckFinding(
            kind="sideways",
            severity="warning",
            text=f"{counted(len(sideways), 'image')} of {height}x{width} among {number:,} of {width}x{height}: perhaps rotated",
            paths=sideways,
            remedy="look at them, and turn those that lie on their side",
        )


def _formats(headers: Headers, ids: Sequence[str]) -> Iterator[CheckFinding]:
    wrong: list[str] = []
    for number, (kind, _) in enumerate(headers.names):
        expected = _ENDINGS.get(kind)
        of_kind: list[int] = np.flatnonzero(headers.kinds == number).tolist() if expected else []
        wrong += [ids[i] for i in of_kind if os.path.splitext(ids[i])[1].lower() not in (expected or ())]
    if wrong:
        yield CheckFinding(
            kind="wrong_ending",
            severity="note",
            text=f"{counted(len(wrong), 'file')} whose name has the ending of another format",
            paths=tuple(sorted(wrong)),
            remedy="nothing is needed, since the content decides; rename them for other programs",
        )
    counts = Counter(headers.names[i][1] for i in headers.kinds.tolist() if i)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        unusual = [i for i, (_, depth) in enumerate(headers.names) if i and depth != usual]
        yield CheckFinding(
            kind="bit_depths",
            severity="note",
            text="several bit depths or pixel types: "
            + ", ".join(f"{name} {number:,}" for name, number in counts.most_common()),
            paths=tuple(ids[int(i)] for i in np.flatnonzero(np.isin(headers.kinds, unusual))),
            remedy="nothing is needed: all become 8-bit RGB; check that a pixel type does not give away the class",
        )


def _pixel_type(header: Header) -> str:
    """Such as `8-bit RGB`, from Pillow's mode."""
    mode = header.mode
    if header.has_16_bits or mode.startswith("I"):
        return "16-bit grey" if mode.startswith(("I", "L")) else "16-bit colour"
    names = {"1": "1-bit", "L": "8-bit grey", "P": "palette", "RGB": "8-bit RGB", "CMYK": "CMYK"}
    return names.get(mode, "8-bit with transparency" if mode.endswith(("A", "a")) else mode)
