"""The outputs and pictures of README.md and docs, made anew by the commands above them: `make readme`.

A block of kind `console` begins with a command after `$ ` and goes on with what it prints: on stdout, and on stderr too if
the command ends in `2>&1`. All run in one folder, the README's first, beside `images/`, a small folder of images made
here, `garden/`, one that is spoilt, and `mended/`, the same one mended. The pictures that they leave there become those of
`docs/`. A test repeats the blocks of kind `console`; what differs between machines is of kind `console once`.
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

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```console(?P<once> once)?\n\$ (?P<command>cctkit [^\n]*)\n(?P<output>.*?)```\n", re.DOTALL)
PICTURES = (".svg", ".png")
BOTH = " 2>&1"
FOUND = 2  # the exit code of `cctkit check` if it has found something that spoils a result


def pages() -> list[Path]:
    """README.md, then the pages of docs with outputs; the commands' reference, which Sphinx makes, is none."""
    found = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "commands.md")
    return [ROOT / "README.md", *(path for path in found if BLOCK.search(path.read_text(encoding="utf-8")))]


def blocks(text: str) -> Iterator[re.Match[str]]:
    """The blocks of a page with a command and its output."""
    return BLOCK.finditer(text)


def output_of(command: str, folder: Path) -> str:
    """What a `cctkit` command prints in `folder`; without `2>&1` its progress goes to this program's stderr."""
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "cctkit", *shlex.split(command.removesuffix(BOTH))[1:]]
    stderr = subprocess.STDOUT if command.endswith(BOTH) else None
    done = subprocess.run(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
    if done.returncode and not (arguments[3] == "check" and done.returncode == FOUND):
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    return done.stdout.replace(f"{folder.resolve()}{os.sep}", "")  # the temporary folder has another name each time


def make_images(folder: Path) -> None:
    """A folder such as people have: 24 photos in two classes, a copy, a text file, a video, and a link to a folder above."""
    draws = np.random.default_rng(0)
    for label, (name, colour) in enumerate({"apple": (170, 40, 40), "pear": (120, 160, 60)}.items()):
        (folder / name).mkdir(parents=True)
        for index in range(12 - 4 * label):
            noise = draws.integers(-40, 40, (90, 120, 3)) + np.array(colour)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / name / f"{index:02}.jpg")
    shutil.copy(folder / "apple" / "00.jpg", folder / "apple" / "copy.jpg")
    (folder / "apple" / "notes.txt").write_text("from the market\n", encoding="utf-8")
    (folder / "pear" / "film.mp4").write_bytes(b"")
    (folder / "pear" / "all").symlink_to(folder.absolute(), target_is_directory=True)


def make_garden(folder: Path) -> None:
    """The folder of the guide From a folder to a model, and beside it a copy that is mended."""
    command = [sys.executable, "-m", "benchmarks.spoilt"]
    subprocess.run([*command, str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    shutil.copytree(folder, folder.with_name("mended"))
    subprocess.run([*command, "--mend", str(folder.with_name("mended"))], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images")
        make_garden(folder / "garden")

        def anew(block: re.Match[str]) -> str:
            print(f"$ {block['command']}", file=sys.stderr)
            output = output_of(block["command"], folder)
            return f"```console{block['once'] or ''}\n$ {block['command']}\n{output}```\n"

        for page in pages():
            page.write_text(BLOCK.sub(anew, page.read_text(encoding="utf-8")), encoding="utf-8")
        for path in sorted(folder.iterdir()):
            if path.suffix in PICTURES:
                shutil.copy(path, ROOT / "docs" / path.name)


if __name__ == "__main__":
    main()
