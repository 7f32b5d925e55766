"""`cctkit import`."""

from pathlib import Path
from typing import Annotated

import typer

from cctkit.cli import completion
from cctkit.cli.options import flag, option
from cctkit.errors import UserError
from cctkit.files import read_limited
from cctkit.text import safe_text

Channels = tuple[float, float, float]


def import_weights(
    file: Annotated[Path, typer.Argument(help="a .pth or .safetensors file from another program")],
    model: Annotated[
        str,
        flag(
            "--model",
            "-m",
            text="model of these weights, such as cct_7_3x1_32_c100 or vit_b_16",
            complete=completion.models,
        ),
    ],
    output: Annotated[Path, flag("--output", "-o", text="weights file to write")],
    classes: Annotated[
        str | None,
        flag(
            "--classes",
            text="cifar10, cifar100, or a file with one class name per line, in label order",
            default="from the model's name",
        ),
    ] = None,
    image_size: Annotated[str | None, option("image_size", default="the model's")] = None,
    mean: Annotated[str | None, flag("--mean", text="mean R,G,B of pixels in [0, 1]", default="the data set's")] = None,
    std: Annotated[
        str | None, flag("--std", text="standard deviation R,G,B of pixels in [0, 1]", default="the data set's")
    ] = None,
) -> None:
    """Convert weights of another program to a weights file of cctkit, with the model, classes and normalisation."""
    if output.exists():
        raise UserError("the output exists, and nothing is overwritten", safe_text(output), "choose another --output")
    if (mean is None) != (std is None):
        raise UserError("--mean and --std must be given together", "command line")
    names = _class_names(classes)

    from cctkit.cli.tables import print_text
    from cctkit.models.weights import save_weights
    from cctkit.training.import_weights import import_foreign

    found = import_foreign(
        file,
        model=model,
        classes=names,
        image_size=image_size,
        mean=_channels(mean, "--mean"),
        std=_channels(std, "--std"),
    )
    save_weights(output, tensors=found.tensors, info=found.info)
    config = found.info.model
    size = "x".join(map(str, config.image_size))
    lines = [f"wrote {safe_text(output)}: {safe_text(config.name)}, {config.num_classes} classes, {size} pixels"]
    lines += [f"note: {note}" for note in found.notes]
    lines.append(f"next: cctkit eval {safe_text(output)}" + ("" if found.info.dataset["named"] else " --dataset FOLDER"))
    print_text("\n".join(lines))


def _class_names(classes: str | None) -> "str | list[str] | None":
    """The name of a data set, or the class names in a file, one per line."""
    from cctkit.catalog.classes import CLASS_NAMES

    if classes is None or classes in CLASS_NAMES:
        return classes
    try:
        lines = read_limited(Path(classes)).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read class names: {safe_text(getattr(error, 'strerror', None) or error)}",
            f"--classes {safe_text(classes)}",
            f"{', '.join(CLASS_NAMES)}, or a text file with one name per line",
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _channels(text: str | None, flag: str) -> Channels | None:
    """`0.5,0.5,0.5` -> three numbers between 0 and 1."""
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        red = green = blue = -1.0
    if not all(0 < value < 1 for value in (red, green, blue)):
        raise UserError(f"'{safe_text(text)}' is not three numbers between 0 and 1", flag, f"{flag} 0.5,0.5,0.5")
    return red, green, blue
