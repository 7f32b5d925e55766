"""`cctkit pack`."""

from pathlib import Path
from typing import Annotated

import typer

from cctkit.cli import completion
from cctkit.cli.options import Json, Quiet, flag, option
from cctkit.config.size import MAX_PIXELS


def pack(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="a folder of images, or the name of a data set", autocompletion=completion.datasets
        ),
    ],
    output: Annotated[Path, flag("--output", "-o", text="packed file to write, for train --dataset FILE")],
    image_size: Annotated[str | None, option("image_size", default=32)] = None,
    resize_mode: Annotated[str, option("resize_mode", default="crop")] = "crop",
    skip_bad: Annotated[bool, option("skip_bad", default="off")] = False,
    max_pixels: Annotated[int, option("max_pixels", default=MAX_PIXELS)] = MAX_PIXELS,
    data_dir: Annotated[str | None, option("data_dir")] = None,
    download: Annotated[bool, option("download", default="on")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode a data set once, on all cores, into one file from which training starts immediately, whatever its size.

    Rerun the same command to resume packing.
    """
    from cctkit.config.settings import TrainConfig

    config = TrainConfig.from_flat(
        {
            "dataset": dataset,
            "image_size": image_size,
            "resize_mode": resize_mode,
            "skip_bad": skip_bad,
            "max_pixels": max_pixels,
            "data_dir": data_dir,
            "download": download,
        }
    ).data
    from cctkit.data.sources.places import check_place

    check_place(config)  # before torch is imported
    from cctkit.cli.progress import reporting
    from cctkit.cli.tables import print_json, print_text
    from cctkit.data.images import pack_dataset
    from cctkit.engine.signals import StopRequest
    from cctkit.text import safe_text

    with StopRequest() as stop, reporting(stop, quiet=quiet) as (reporter, data_progress):
        packed = pack_dataset(config, output, progress=data_progress, notify=reporter.notice)
        stop.check()  # the file is whole, and yet a script must not go on as if nobody had stopped it
    height, width = packed.image_size
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "file": safe_text(output),
                "num_images": len(packed.images),
                "num_classes": len(packed.class_names),
                "image_size": [height, width],
                "fingerprint": packed.fingerprint,
                "bytes": output.stat().st_size,
                "skipped": list(packed.skipped),
            }
        )
        return
    print_text(
        f"{safe_text(output)}: {len(packed.images):,} images of {len(packed.class_names)} classes, {height}x{width}, "
        f"{output.stat().st_size / 1e6:,.0f} MB\n"
        f"next: cctkit train --dataset {safe_text(output)}"
    )
