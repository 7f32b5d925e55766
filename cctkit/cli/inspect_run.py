"""`cctkit inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from cctkit.cli.options import Json, Quiet, flag, option


def inspect_run(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="a run directory, finished or not (default: the newest run)", show_default=False),
    ] = None,
    *,
    output: Annotated[
        Path,
        flag("--output", "-o", text="page to write; only an earlier page of this command is replaced", metavar="FILE.html"),
    ],
    dataset: Annotated[
        str | None, option("dataset", text="where the images of the run are now", default="where they were")
    ] = None,
    mistakes: Annotated[
        int,
        flag("--mistakes", text="number of mistakes to show; 0 is faster", default=12, at_least=0, at_most=100),
    ] = 12,
    check: Annotated[bool, flag("--check/--no-check", text="check the images as cctkit check does", default="on")] = True,
    device: Annotated[str, option("device", default="auto")] = "auto",
    threads: Annotated[int | None, option("threads")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write everything about a run as one HTML page, which loads nothing: results, pictures, settings.

    confusion.png, mistakes.png and batch.png are written into the run directory.
    """
    from cctkit.engine.allocator import keep_memory

    keep_memory()
    from cctkit.cli.progress import reporting
    from cctkit.cli.tables import print_json, print_text
    from cctkit.engine.signals import StopRequest
    from cctkit.inspection.inspect import InspectConfig
    from cctkit.inspection.inspect import inspect_run as write_page
    from cctkit.text import safe_text

    config = InspectConfig(output=output, dataset=dataset, mistakes=mistakes, check=check, device=device, threads=threads)
    with StopRequest() as stop, reporting(stop, quiet=quiet) as (reporter, data_progress):
        result = write_page(source, config, notify=reporter.notice, progress=data_progress)
        stop.check()  # the page is whole, and yet a script must not go on
    if as_json:
        print_json(result)
        return
    print_text(f"wrote {safe_text(output)}, {result['bytes'] / 1e6:.1f} MB")
    for path in result["pictures"]:
        print_text(f"wrote {safe_text(path)}")
    for each in result["without_data"]:
        print_text(f"{each['part']}: {safe_text(each['reason'])}")
