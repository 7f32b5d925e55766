"""Checks the links of README.md, CONTRIBUTING.md, SECURITY.md and docs: a part of `make docs`.

Files and headings that are linked to have to exist. Of links to other sites only the form of the address is checked, so
that the check needs no network.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs" / "reference" / "commands.md"
_CODE = re.compile(r"^(```+|~~~+).*?^\1[^\S\n]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def documents() -> list[Path]:
    """The documents that are written by hand, README.md first."""
    pages = sorted(path for path in (ROOT / "docs").rglob("*.md") if "build" not in path.relative_to(ROOT).parts)
    top = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md") if path.exists()]
    return [*top, *(path for path in pages if path != GENERATED)]


def broken_links(page: Path, text: str) -> Iterator[str]:
    """What is wrong with each broken link of a document."""
    for target in _LINK.findall(_CODE.sub("", text)):
        fault = _external_fault(target) if re.match(r"[a-z]+:", target) else _internal_fault(page, target)
        if fault:
            yield f"{page.relative_to(ROOT)}: {target}: {fault}"


def _external_fault(target: str) -> str | None:
    parts = urlsplit(target)
    if parts.scheme not in {"https", "http"}:
        return "expected an https address"
    return None if re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.hostname or "") else "the host name is malformed"


def _internal_fault(page: Path, target: str) -> str | None:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if path == GENERATED:  # exists once the documentation is built
        return None
    if not path.exists():
        return "there is no such file"
    if not path.is_relative_to(ROOT):
        return "it leads out of the repository"
    if anchor and anchor not in _anchors(path.read_text(encoding="utf-8")):
        return "there is no such heading"
    return None


def _anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub and MyST make them."""
    headings = _HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def main() -> None:
    faults = [fault for page in documents() for fault in broken_links(page, page.read_text(encoding="utf-8"))]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
