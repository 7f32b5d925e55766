"""Reads weights files of other programs without running any code in them."""

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
from cctkit.models.weights import plain_name
from cctkit.runs.runfiles import in_utf8
from cctkit.text import safe_text

# Keys of training checkpoints under which the weights are nested; EMA weights first, as in timm's loader.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
_DEEPEST = 3


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or a file of `torch.save`, on the CPU, by name.

    Finds the weights nested in a checkpoint, and removes the prefixes of DDP and torch.compile.

    Raises: UserError if the file is missing or damaged, contains code, or has no tensors.
    """
    if not path.is_file():
        raise UserError("there is no such weights file", safe_text(path))
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    tensors: dict[str, Tensor] = {}
    for name, value in _weights_within(content).items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            continue
        _check_tensor(name, value, path)
        tensors[plain_name(name)] = value
    if not tensors:
        raise UserError("no weights found in this file", safe_text(path), "expected a state dict")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with in_utf8(path) as readable:
            return load_file(readable)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"not a safetensors file, or damaged: {safe_text(error)}", safe_text(path)) from error


def _torch_file(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise UserError("this file is compressed, which torch.save does not do", safe_text(path))
        # timm stores its arguments in its checkpoints; a namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = safe_text(str(error).strip().partition("\n")[0], max_length=120)
        raise UserError(
            f"this file is damaged, or contains code, which is not run: {reason}",
            safe_text(path),
            "save the weights alone: torch.save(model.state_dict(), FILE)",
        ) from error


def _weights_within(content: Any) -> Mapping[Any, Any]:
    """The innermost state dict of a checkpoint."""
    for _ in range(_DEEPEST):
        nested = next((content[key] for key in _NESTED if isinstance(content, Mapping) and key in content), None)
        if not isinstance(nested, Mapping):
            break
        content = nested
    return content if isinstance(content, Mapping) else {}


def _check_tensor(name: str, tensor: Tensor, path: Path) -> None:
    """Raises: UserError unless the tensor is dense and on the CPU; with strides of 0 a few bytes can claim terabytes."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{safe_text(name)} is not a dense tensor", safe_text(path))
