"""`cctkit card`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cctkit.cli.options import Json, flag


def card(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="a finished run directory (default: the newest run)", show_default=False),
    ] = None,
    *,
    output: Annotated[Path, flag("--output", "-o", text="new folder to write")],
    onnx: Annotated[Path | None, flag("--onnx", text="a file of cctkit export to put beside the weights")] = None,
    as_json: Json = False,
) -> None:
    """Write a finished run as a folder to share: weights, configuration and a model card. Nothing is sent."""
    from cctkit.cli.tables import print_json, print_text
    from cctkit.hub.folder import write_hub_folder
    from cctkit.text import safe_text

    files = write_hub_folder(source, output, onnx=onnx, notify=lambda text: print_text(text, stream=sys.stderr))
    if as_json:
        print_json({"schema_version": 1, "output": str(output), "files": [path.name for path in files]})
        return
    print_text(f"wrote {', '.join(safe_text(path) for path in files)}")
    print_text("complete README.md: what it is for, and the licence; it holds the command of the run, with its paths")
    print_text(f"then, to share it: hf upload USER/NAME {safe_text(output)}")
