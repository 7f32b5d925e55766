"""Check a data set as training would read it, and report everything that was found, worst first."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cctkit.config.settings import DataConfig
from cctkit.data.check.classes import few_images, nested, spelled_alike
from cctkit.data.check.copies import Parts, Places, copies, parted_groups
from cctkit.data.check.finding import SEVERITIES, CheckFinding
from cctkit.data.check.headers import Headers, header_findings, read_headers
from cctkit.data.check.pixels import look_at, pixel_findings
from cctkit.data.dataset import split_images
from cctkit.data.grouping import group_keys
from cctkit.data.images import OpenedImages, open_images
from cctkit.data.packed.read import Packed
from cctkit.data.report.faults import BROKEN_REMEDY
from cctkit.data.report.findings import FaultsError
from cctkit.data.report.report import DataReport
from cctkit.data.source import Notify, Progress
from cctkit.errors import UserError
from cctkit.text import counted, safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck:
    """What was found in a data set.

    report: the numbers that training prints too.
    findings: worst first.
    median_side: median of the shorter sides in pixels; None if unknown, as in a packed file.
    """

    report: DataReport
    findings: tuple[CheckFinding, ...]
    median_side: int | None

    @property
    def num_images(self) -> dict[str, int]:
        """Number of images per split."""
        return {part: sum(numbers) for part, numbers in self.report.parts.items()}

    @property
    def would_spoil(self) -> bool:
        """Whether a result on this data set would be spoilt, or training would stop."""
        return any(finding.severity == "error" for finding in self.findings)


def check_dataset(config: DataConfig, *, progress: Progress, notify: Notify) -> DataCheck:
    """Scan and pack the data set in `config` as training does, and look for everything that may spoil a result.

    progress: called during long work; may raise to stop it.
    notify: called before a download.

    Raises: UserError if there are no images; ResourceError if the disk is full.
    """
    images, findings = _opened(config, progress, notify)
    store = images.store
    assert isinstance(store, Packed)
    report, parts, split_findings = _split(images, config)
    findings += split_findings
    ids = store.ids(np.arange(len(store.labels)))
    if config.group_by is not None:
        keys = group_keys(ids, store.labels, store.class_names, config.group_by, safe_text(report.place or report.name))
        findings += parted_groups(keys, parts, ids)
    folders = [folder for _, folder in images.folders] or ["."]
    class_folders = {name: _folders_of(name, images.place, folders) for name in store.class_names}
    findings += spelled_alike(class_folders)
    findings += few_images(report.parts.get("train") or report.per_class, class_folders)
    headers = None
    if images.place is not None and Path(images.place).is_dir():
        findings += nested(ids, store.labels, store.class_names, folders)
        headers = read_headers(images.place, ids, progress)
        size = config.image_size or store.image_size
        findings += header_findings(headers, ids, image_size=size, crops=config.resize_mode == "crop")
    pixels = look_at(store, progress)
    findings += pixel_findings(pixels, ids, store.labels, store.class_names)
    places = Places(store=store, ids=ids, parts=parts, split_made=report.split_made)
    findings += copies(places, pixels, progress)
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    return DataCheck(report=report, findings=tuple(ordered), median_side=_median_side(headers))


def _opened(config: DataConfig, progress: Progress, notify: Notify) -> tuple[OpenedImages, list[CheckFinding]]:
    """The images, and what scanning and packing found; broken images are left out."""
    try:
        images = open_images(config, progress=progress, notify=notify, keep_faults=True)
    except FaultsError as error:
        if {fault.kind for fault in error.faults} != {"broken"}:
            raise
        images = open_images(replace(config, skip_bad=True), progress=progress, notify=notify, keep_faults=True)
    findings = [CheckFinding.of_scan(finding) for finding in images.findings]
    if images.store.seen:
        findings += map(CheckFinding.of_scan, images.store.seen.findings())
    if images.store.skipped:
        findings.append(_broken(images.store.skipped, images.place, skips=config.skip_bad))
    return images, findings


def _broken(skipped: tuple[str, ...], place: str | None, *, skips: bool) -> CheckFinding:
    """The broken images, from lines of path and reason."""
    pairs = [_path_and_reason(line, place) for line in skipped]
    return CheckFinding(
        kind="broken",
        severity="note" if skips else "error",
        text=f"{counted(len(pairs), 'broken image')}{', skipped' if skips else ': training stops'}",
        paths=tuple(path for path, _ in pairs),
        reasons=tuple(reason for _, reason in pairs),
        remedy="fix or remove them" if skips else BROKEN_REMEDY,
    )


def _path_and_reason(line: str, place: str | None) -> tuple[str, str]:
    """Both may contain the separator: the path is the first part that is a file."""
    pieces = line.split(": ")
    for number in range(1, len(pieces)):
        path = ": ".join(pieces[:number])
        if place is not None and (Path(place) / path).is_file():
            return path, ": ".join(pieces[number:])
    return pieces[0], ": ".join(pieces[1:])


def _split(images: OpenedImages, config: DataConfig) -> tuple[DataReport, Parts, list[CheckFinding]]:
    """The report on the splits that training would use, the split of each image, and what is wrong with the splits."""
    found: list[CheckFinding] = []
    if len(images.rows()["train"]) and config.val_fraction == 0:
        config = replace(config, group_by=None)  # nothing is split here
    try:
        dataset = split_images(images, config)
        report = dataset.report
        rows = [split.index.astype(np.int64) for split in dataset.splits.values()]
    except UserError as error:
        report = images.report(config, images.rows(), split_made=False)
        rows = list(images.rows().values())
        remedy = error.remedy or "split the folder yourself: train/CLASS/* and test/CLASS/*"
        found.append(CheckFinding(kind="cannot_split", severity="error", text=error.what, remedy=remedy))
    parts = np.full(len(images.store.labels), -1, dtype=np.int8)
    for number, of_part in enumerate(rows):
        parts[of_part] = number
    if uneven := report.uneven():
        found.append(CheckFinding.of_scan(uneven))
    return report, parts, found


def _folders_of(name: str, place: str | None, folders: list[str]) -> tuple[str, ...]:
    """The folders of a class, as paths inside the data set; its name if it has none."""
    paths = [os.path.normpath(os.path.join(folder, name)) for folder in folders]
    return tuple(path for path in paths if place and os.path.isdir(os.path.join(place, path))) or (name,)


def _median_side(headers: Headers | None) -> int | None:
    if headers is None or not len(headers.sizes):
        return None
    return int(np.median(headers.sizes.min(axis=1)))


def by_severity(findings: tuple[CheckFinding, ...]) -> Iterator[str]:
    """Number of findings per severity, such as `2 errors`."""
    for severity in SEVERITIES:
        if number := sum(finding.severity == severity for finding in findings):
            yield counted(number, severity)
