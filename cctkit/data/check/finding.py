"""One kind of thing that `cctkit check` found, with every path and a remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cctkit.data.report.findings import Finding
from cctkit.text import safe_text

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""
_OF_LEVEL: dict[str, Severity] = {"fault": "error", "warning": "warning", "ignored": "note"}
_SHOWN = 5
_SHOWN_OF_GROUP = 4
_NAME_LENGTH = 100

# For findings that need no remedy before training.
_REMEDIES = {
    "beside": "move what belongs to a split into its folder; nothing else is needed",
    "other_file": "nothing is needed; move images among them to the folder of their class, as PNG or JPEG",
    "hidden": "nothing is needed; rename those that should be used",
    "pages": "save each page that should be used as a file of its own",
    "uneven": "add images to the small classes, or train with --class-weights",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFinding:
    """One kind of thing that was found.

    kind: a name for programs.
    severity: error (a result would be spoilt, or training stops), warning (results may be worse), or note.
    text: what it is, with its number.
    paths: every file or folder, as a path inside the data set.
    remedy: how to fix it.
    groups: paths that belong together, such as an image and its copies.
    reasons: for each path what is wrong with it, if that differs.
    """

    kind: str
    severity: Severity
    text: str
    remedy: str
    paths: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    reasons: tuple[str, ...] = ()

    @classmethod
    def of_groups(
        cls, kind: str, severity: Severity, text: str, groups: Sequence[tuple[str, ...]], remedy: str
    ) -> "CheckFinding":
        """A finding of paths that belong together."""
        paths = tuple(path for group in groups for path in group)
        return cls(kind=kind, severity=severity, text=text, remedy=remedy, paths=paths, groups=tuple(groups))

    @classmethod
    def of_scan(cls, finding: Finding) -> "CheckFinding":
        """What training prints, as a finding of the check."""
        remedy = finding.remedy or _REMEDIES.get(finding.kind, "nothing is needed")
        paths = finding.paths or finding.names
        if finding.kind == "unreadable_folder":
            paths = tuple(path.rsplit(": ", 1)[0] for path in paths)
        return cls(kind=finding.kind, severity=_OF_LEVEL[finding.level], text=finding.text, remedy=remedy, paths=paths)

    def as_json(self) -> dict[str, Any]:
        """See docs/reference/files.md."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "text": self.text,
            "remedy": self.remedy,
            "paths": list(self.paths),
            "groups": [list(group) for group in self.groups],
            "reasons": list(self.reasons),
        }

    def lines(self) -> list[str]:
        """Lines to print: the first few paths, and the remedy."""
        shown = self.shown()
        number = len(self.groups or self.paths)
        more = [f"  and {number - len(shown):,} more"] if number > len(shown) else []
        return [f"{self.severity}: {self.text}", *(f"  {line}" for line in shown), *more, f"  try: {self.remedy}"]

    def shown(self) -> list[str]:
        """The first few paths, with what is wrong with each, or groups."""
        if self.groups:
            return [_group_line(group) for group in self.groups[:_SHOWN]]
        names = [safe_text(path, _NAME_LENGTH) for path in self.paths[:_SHOWN]]
        reasons = [f": {safe_text(reason)}" for reason in self.reasons[:_SHOWN]]
        return [name + reason for name, reason in zip(names, reasons or [""] * len(names), strict=True)]


def _group_line(group: Sequence[str]) -> str:
    more = f" and {len(group) - _SHOWN_OF_GROUP:,} more" if len(group) > _SHOWN_OF_GROUP else ""
    return " = ".join(safe_text(path, _NAME_LENGTH) for path in group[:_SHOWN_OF_GROUP]) + more
