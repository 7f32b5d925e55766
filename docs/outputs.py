"""The README's outputs and pictures, made anew by the commands above them: `make readme`.

A block of kind `console` begins with a command after `$ ` and goes on with what it prints on stdout. All run in the
README's order in one empty folder; the pictures that they leave there become those of `docs/`. A test repeats the blocks
of kind `console`; what differs between machines is of kind `console once`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"```console(?P<once> once)?\n\$ (?P<command>cctkit [^\n]*)\n(?P<output>.*?)```\n", re.DOTALL)
PICTURES = (".svg", ".png")


def blocks(text: str) -> Iterator[re.Match[str]]:
    """The blocks of a README with a command and its output."""
    return BLOCK.finditer(text)


def output_of(command: str, folder: Path) -> str:
    """What a `cctkit` command prints on stdout in `folder`; its progress goes to this program's stderr."""
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "cctkit", *shlex.split(command)[1:]]
    done = subprocess.run(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def anew(block: re.Match[str]) -> str:
            print(f"$ {block['command']}", file=sys.stderr)
            output = output_of(block["command"], folder)
            return f"```console{block['once'] or ''}\n$ {block['command']}\n{output}```\n"

        README.write_text(BLOCK.sub(anew, README.read_text(encoding="utf-8")), encoding="utf-8")
        for path in sorted(folder.iterdir()):
            if path.suffix in PICTURES:
                shutil.copy(path, ROOT / "docs" / path.name)


if __name__ == "__main__":
    main()
