"""Weights files of other programs, read as plain tensors: nothing that they contain is run."""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cctkit.errors import UserError
from cctkit.runs.runfiles import in_utf8
from cctkit.text import safe_text

# The nested dictionaries of training checkpoints; the moving average comes first, as in timm's loader.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = ("_orig_mod.", "module.")
_DEEPEST = 3


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of what `torch.save` wrote, on the CPU, by their plain names.

    A checkpoint's nested weights are found, and what DDP and torch.compile put before the names is taken off.

    Raises: UserError where the file is missing or damaged, holds more than plain data, or has no tensors.
    """
    if not path.is_file():
        raise UserError("there is no such weights file", safe_text(path))
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    tensors: dict[str, Tensor] = {}
    for name, value in _weights_within(content).items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            continue
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        _check_tensor(name, value, path)
        tensors[name] = value
    if not tensors:
        raise UserError("there are no weights in this file", safe_text(path), "expected a state dict")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with in_utf8(path) as readable:
            return load_file(readable)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"this is no safetensors file, or a damaged one: {safe_text(error)}", safe_text(path)) from error


def _torch_file(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise UserError("this file is compressed, as torch writes none", safe_text(path))
        # timm keeps its arguments in its checkpoints: a namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # what a damaged or hostile file makes the reader raise has no bounds
        reason = safe_text(str(error).strip().partition("\n")[0], max_length=120)
        raise UserError(
            f"this file is damaged, or holds more than weights, which is not run: {reason}",
            safe_text(path),
            "have its program save the plain weights: torch.save(model.state_dict(), FILE)",
        ) from error


def _weights_within(content: Any) -> Mapping[Any, Any]:
    """The innermost mapping of weights of a checkpoint."""
    for _ in range(_DEEPEST):
        nested = next((content[key] for key in _NESTED if isinstance(content, Mapping) and key in content), None)
        if not isinstance(nested, Mapping):
            break
        content = nested
    return content if isinstance(content, Mapping) else {}


def _check_tensor(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse what would not be a dense tensor of its own numbers: a few bytes can claim terabytes through strides of 0.

    Raises: UserError.
    """
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{safe_text(name)} is no plain dense tensor", safe_text(path))
