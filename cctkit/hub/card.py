"""The model card: what a finished run's files say about its model, as Markdown with the front matter of the Hugging Face Hub.

The front matter's keys are those of https://huggingface.co/docs/hub/model-cards.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cctkit.catalog.counts import count
from cctkit.models.weights import WeightsInfo
from cctkit.runs.runfiles import command_line
from cctkit.text import json_text, safe_text

FILL_IN = "Fill in before you share this: "
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_HTML = re.compile("[<>&]")
_NAMED = 20  # classes written out


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a finished run says about itself: the weights' header, `result.json`, `env.json`, and the seconds of training."""

    info: WeightsInfo
    result: Mapping[str, Any]
    env: Mapping[str, Any]
    train_seconds: float | None


def card_text(run: Finished, *, name: str, onnx: bool) -> str:
    """The model card of a finished run.

    name: of the folder, for the commands.
    onnx: whether `model.onnx` is in the folder.
    """
    info, result = run.info, run.result
    parts = [
        _front_matter(info, result),
        f"# {escaped(info.model.name)} on {escaped(result['dataset'])}",
        f"An image classifier with {result['params']['total']:,} parameters for {info.model.num_classes:,} classes, "
        f"trained with cctkit {escaped(run.env['cctkit'])}.",
        f"> {FILL_IN}what the model is meant for, who made it, and the licences of the weights and of the data.",
        "## Accuracy",
        _accuracy(info, result),
        "## Data",
        *_data(info, result),
        "## Training",
        *_training(run),
        "## Use",
        _use(name, onnx=onnx),
        "## Limits",
        _limits(info, result),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: object) -> str:
    """A name from outside as Markdown text: without control characters, and shown as it is."""
    return _SPECIAL.sub(r"\\\1", safe_text(text))


def _front_matter(info: WeightsInfo, result: Mapping[str, Any]) -> str:
    """YAML; its strings are JSON's, which YAML reads, without the characters that HTML would read."""
    metric = {"type": "accuracy", "name": "top-1", "value": result["top1_percent"] / 100}
    task = {"type": "image-classification"}
    dataset = {"name": safe_text(result["dataset"]), "type": safe_text(result["dataset"]), "split": result["split"]}
    index = [{"name": safe_text(info.model.name), "results": [{"task": task, "dataset": dataset, "metrics": [metric]}]}]
    values = {
        "license": "unknown",
        "library_name": "cctkit",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "cctkit", info.model.family],
        "model-index": index,
    }
    return "\n".join(
        ["---", *(f"{key}: {_HTML.sub(_as_escape, json_text(value, ascii_only=True))}" for key, value in values.items()), "---"]
    )


def _as_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _accuracy(info: WeightsInfo, result: Mapping[str, Any]) -> str:
    low, high = result["top1_interval_percent"]
    rows = [
        (f"top-1, {result['num_images']:,} {escaped(result['split'])} images", f"{result['top1_percent']:.2f}%"),
        ("95% interval of top-1 (Wilson)", f"{low:.2f} to {high:.2f}%"),
    ]
    if result.get("copies_in_train") and result["top1_percent_without_copies"] is not None:
        rows.append(("top-1 without the images that are in train too", f"{result['top1_percent_without_copies']:.2f}%"))
    if result["top5_percent"] is not None:
        rows.append(("top-5", f"{result['top5_percent']:.2f}%"))
    rows += [
        ("loss", "not finite" if result["loss"] is None else f"{result['loss']:.4f} nats"),
        ("expected calibration error", "not finite" if result["ece"] is None else f"{result['ece']:.4f}"),
        *_calibrated(result),
        ("parameters", f"{result['params']['total']:,}"),
        ("multiply-adds per image", f"{count(info.model).macs / 1e6:,.1f} million"),
    ]
    if result.get("score") is not None:
        rows.append(("score, 100 * (top-1 - 70) / millions of parameters", f"{result['score']:.3f}"))
    return _table(("figure", "value"), rows)


def _calibrated(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures with the temperature, if the weights have one."""
    figures = [result.get(key) for key in ("temperature", "calibrated_loss", "calibrated_ece")]
    if None not in figures:
        yield "temperature of the probabilities, fitted on validation images", f"{result['temperature']:.4g}"
        yield "loss with the temperature", f"{result['calibrated_loss']:.4f} nats"
        yield "expected calibration error with the temperature", f"{result['calibrated_ece']:.4f}"


def _data(info: WeightsInfo, result: Mapping[str, Any]) -> Iterator[str]:
    names = info.class_names
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    yield f"Classes: {', '.join(map(escaped, names[:_NAMED]))}{more}; `config.json` has all."
    yield f"Fingerprint of the data set: {escaped(info.dataset['fingerprint'])}."
    number = result.get("copies_in_train")
    if number is not None:
        other = result.get("copies_of_another_class") or 0
        of_them = f", {other:,} of them under another class" if number else ""
        yield f"Test images whose pixels are also those of a training image: {number:,}{of_them}."


def _training(run: Finished) -> Iterator[str]:
    result, env = run.result, run.env
    yield "```console\n$ " + safe_text(command_line(env), 2000) + "\n```"
    epochs = f"{result['epoch']:,} of {result['planned_epochs']:,} epochs"
    rows = [
        ("recipe", escaped(result["recipe"] or "none")),
        ("epochs", f"{epochs}, chosen by {escaped(result['chosen_by'])}"),
        ("seed", str(result["seed"])),
    ]
    if run.train_seconds is not None:
        rows.append(("hours of training", f"{run.train_seconds / 3600:.2f}"))
    policy = env["policy"]
    hardware = env.get("gpu") if policy["device"] == "cuda" else env.get("cpu")
    rows += [
        ("device", f"{escaped(policy['device'])}, {escaped(hardware)}"),
        ("processes, and threads of each", f"{escaped(env.get('ranks', 1))}, {policy['threads']}"),
        ("number format", escaped(policy["precision"])),
        ("versions", escaped(f"cctkit {env['cctkit']}, torch {env['torch']}, Python {env['python']}")),
    ]
    if env.get("init"):
        rows.append(("initial weights", escaped(env["init"].get("source"))))
    yield _table(("setting", "value"), rows)


def _use(name: str, *, onnx: bool) -> str:
    quoted = safe_text(shlex.quote(name))
    lines = [
        "With cctkit installed:",
        "",
        "```console",
        f"$ cctkit predict photo.jpg --model {quoted}",
        f"$ cctkit eval {quoted} --dataset FOLDER",
        "```",
    ]
    if onnx:
        lines += ["", "`model.onnx` is the same model for onnxruntime; its metadata say how an image becomes its input."]
    return "\n".join(lines)


def _limits(info: WeightsInfo, result: Mapping[str, Any]) -> str:
    height, width = info.upsampling.stored_size if info.upsampling else info.model.image_size
    cut = "is cut to its centre" if info.resize_mode == "crop" else "is squashed"
    lines = [
        f"- An image is resized to {height}x{width} pixels (height x width) first; one of another shape {cut}.",
        "- Every image gets one of the classes above, also if it shows none of them.",
        "- The figures are of the test images of this data set; images from elsewhere were not tried.",
    ]
    worst = [row for row in result["worst_classes"] if row["num_images"]][:5]
    if worst:
        rows = ", ".join(f"{escaped(row['class'])} ({row['top1_percent']:.1f}% of {row['num_images']:,})" for row in worst)
        lines.append(f"- Classes with the lowest accuracy: {rows}.")
    return "\n".join(lines)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ("---",) * len(headings), *rows))
