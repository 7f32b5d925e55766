"""`cctkit export`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cctkit.cli.options import Json, Quiet, TrainedModel, flag, option
from cctkit.config.size import MAX_PIXELS
from cctkit.errors import UserError
from cctkit.text import safe_text

if TYPE_CHECKING:
    from rich.table import Table


def export(
    output: Annotated[
        Path, flag("--output", "-o", text="ONNX file to write; an existing file is refused", metavar="FILE.onnx")
    ],
    model: TrainedModel = None,
    dataset: Annotated[
        str | None, option("dataset", text="images to compare on: a folder or a name", default="the test images of the run")
    ] = None,
    data_dir: Annotated[str | None, option("data_dir")] = None,
    skip_bad: Annotated[bool, option("skip_bad", default="off")] = False,
    max_pixels: Annotated[int, option("max_pixels", default=MAX_PIXELS)] = MAX_PIXELS,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="compare with torch on all test images before writing (default: on)",
            show_default=False,
        ),
    ] = True,
    threads: Annotated[int | None, option("threads")] = None,
    download: Annotated[bool, option("download", default="on")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model as an ONNX file, once onnxruntime gives the same classes as torch on all test images.

    The file takes uint8 RGB images (batch, height, width, 3), and normalizes and enlarges them itself.
    """
    from cctkit.config.settings import DataConfig
    from cctkit.data.sources.places import check_place

    if not verify and dataset is not None:
        raise UserError("--dataset names images to compare on, which --no-verify leaves out", "command line", "leave one out")
    data = DataConfig(dataset=dataset, data_dir=data_dir, download=download, skip_bad=skip_bad, max_pixels=max_pixels)
    check_place(data)  # before torch is imported
    from cctkit.cli.progress import reporting
    from cctkit.cli.tables import print_json, print_wide
    from cctkit.engine.signals import StopRequest
    from cctkit.export.export import ExportConfig, export_onnx

    config = ExportConfig(data=data, verify=verify, threads=threads)
    with StopRequest() as stop, reporting(stop, quiet=quiet) as (reporter, data_progress):
        result = export_onnx(model, output, config, notify=reporter.notice, progress=data_progress)
        stop.check()  # the file is whole, and yet a script must not go on
    if as_json:
        print_json(result)
    else:
        print_wide(lambda _: _table(result))


def _table(result: Mapping[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _figures(result).items():
        table.add_row(Text(name), Text(value))
    return table


def _figures(result: Mapping[str, Any]) -> dict[str, str]:
    """The name and text of each figure, in the order shown."""
    height, width = result["preprocessing"]["size"]
    found, temperature = result["verification"], result["preprocessing"]["in_graph"]["temperature"]
    figures = {
        "file": f"{safe_text(result['file'])}   {result['bytes'] / 1e6:,.1f} MB",
        "model": safe_text(result["model"]),
        "input": f"images: uint8 (batch, {height}, {width}, 3), RGB",
        "outputs": "logits, probabilities" + ("" if temperature is None else f" with the temperature {temperature:.4g}"),
    }
    if not found["verified"]:
        return figures | {"compared": "not with torch: --no-verify"}
    low, high = found["top1_interval_percent"]
    close = f"{found['close_decisions_changed']} where the two highest logits are within {found['margin']:g}"
    top1, of_torch = (f"{found[key]:.2f}%" for key in ("top1_percent", "torch_top1_percent"))
    return figures | {
        "compared": f"with torch on {safe_text(found['dataset'])}, {safe_text(found['split'])}, {found['num_images']:,} images",
        "greatest difference": f"{found['max_difference']:.2g} of a logit",
        "changed classes": f"{found['decisions_changed']}   and {close}",
        "top-1": f"{top1}   95% interval {low:.2f} to {high:.2f}   torch {of_torch}",
        "speed": f"{result['images_per_s']:,.0f} images/s   torch {result['torch_images_per_s']:,.0f}",
    }
