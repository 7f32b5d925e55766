"""Predictions files: ids, labels and logits per image, as safetensors or CSV."""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.digests import check_digest, sealed
from cctkit.errors import UserError
from cctkit.files import write_atomic
from cctkit.runs.runfiles import in_utf8
from cctkit.text import csv_cell, safe_text

if TYPE_CHECKING:
    import numpy as np

_KEY = "cctkit"
_SCHEMA = 1
_LONGEST_CELL = 10_000
_NAMES = {"schema_version", "class_names", "split", "fingerprint", "split_fingerprint", "digest"}
# safetensors' dtype and number of dimensions of each tensor
_FORM = {"ids": ("U8", 1), "id_offsets": ("I64", 1), "labels": ("I64", 1), "logits": ("F32", 2)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Predictions for n images and K classes.

    ids: of the images.
    labels: int64 (n,).
    logits: float32 (n, K).
    fingerprint: of the whole data set.
    split_fingerprint: of these images; "" in files from earlier versions.
    is_verified: whether the file has a digest; those of earlier versions have none.
    """

    ids: Sequence[str]
    labels: "np.ndarray[Any, Any]"
    logits: "np.ndarray[Any, Any]"
    class_names: Sequence[str]
    split: str
    fingerprint: str
    split_fingerprint: str = ""
    is_verified: bool = False


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a predictions file atomically."""
    import numpy as np
    from safetensors.numpy import save

    encoded = [text.encode("utf-8", "surrogateescape") for text in predictions.ids]
    header = {
        "schema_version": _SCHEMA,
        "class_names": list(predictions.class_names),
        "split": predictions.split,
        "fingerprint": predictions.fingerprint,
    }
    if predictions.split_fingerprint:
        header["split_fingerprint"] = predictions.split_fingerprint
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "id_offsets": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        "labels": np.ascontiguousarray(predictions.labels, dtype=np.int64),
        "logits": np.ascontiguousarray(predictions.logits, dtype=np.float32),
    }
    header = sealed(header, save(tensors))
    write_atomic(path, save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)}))


def check_new(path: Path, flag: str = "--save-predictions") -> None:
    """Check that a new file can be written, before any work is done. flag: the option that names it.

    Raises: UserError.
    """
    if path.exists() or path.is_symlink():
        raise UserError("the output exists, and nothing is overwritten", safe_text(path), f"choose another {flag}")
    if not path.parent.is_dir():
        raise UserError(f"there is no directory {safe_text(path.parent)}", safe_text(path), "create it, or choose another")


def write_csv(path: Path, predictions: Predictions) -> None:
    """Write predictions as CSV in UTF-8, atomically: one line per image, with one column of logits per class."""
    import numpy as np

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [safe_text(name, _LONGEST_CELL) for name in predictions.class_names]
    writer.writerow(["id", "label", "predicted", *(f"logit {name}" for name in names)])
    for image, label, row in zip(predictions.ids, predictions.labels.tolist(), predictions.logits, strict=True):
        predicted = names[row.argmax()] if np.isfinite(row).all() else ""
        texts = (safe_text(image, _LONGEST_CELL), names[label], predicted)
        writer.writerow([*map(csv_cell, texts), *map(str, row)])
    write_atomic(path, out.getvalue().encode())


def read_predictions(path: Path) -> Predictions:
    """The predictions in `path`.

    Raises: UserError if there is no such file, or it is malformed.
    """
    from safetensors import SafetensorError, safe_open

    remedy = "make them: cctkit eval RUN"
    if not path.is_file():
        raise UserError("there is no such predictions file", safe_text(path), remedy)
    try:
        with in_utf8(path) as readable, safe_open(readable, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            _check_header(header)
            for name in _FORM:
                _check_form(name, file.get_slice(name))
            tensors = {name: file.get_tensor(name) for name in _FORM}
        _check_tensors(tensors, classes=len(header["class_names"]))
        is_verified = check_digest(path, _KEY)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"not a predictions file: {safe_text(error)}", safe_text(path), remedy) from error
    return Predictions(
        ids=_split_ids(tensors["ids"].tobytes(), tensors["id_offsets"].tolist()),
        labels=tensors["labels"],
        logits=tensors["logits"],
        class_names=tuple(header["class_names"]),
        split=header["split"],
        fingerprint=header["fingerprint"],
        split_fingerprint=header.get("split_fingerprint", ""),
        is_verified=is_verified,
    )


def _check_header(header: Any) -> None:
    if not isinstance(header, dict):
        raise ValueError(f"its metadata has no {_KEY!r}")
    if header.get("schema_version") != _SCHEMA:
        raise ValueError(f"its schema version is {header.get('schema_version')}, expected {_SCHEMA}")
    names = header.get("class_names")
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError("its class_names are not a list of strings")
    for key in ("split", "fingerprint", "split_fingerprint"):
        if not isinstance(header.get(key, "" if key == "split_fingerprint" else None), str):
            raise ValueError(f"its {key} is not a string")
    if unknown := sorted(header.keys() - _NAMES):  # such as a damaged name of the digest
        raise ValueError(f"its metadata has an unknown {safe_text(unknown[0], 40)}")


def _check_form(name: str, part: Any) -> None:
    """Checked before the tensor is read, as numpy lacks some of safetensors' types."""
    dtype, dimensions = _FORM[name]
    if part.get_dtype() != dtype or len(part.get_shape()) != dimensions:
        raise ValueError(f"its {name} are {part.get_dtype()} {part.get_shape()}, expected {dtype} of {dimensions} dimensions")


def _check_tensors(tensors: "Mapping[str, np.ndarray[Any, Any]]", *, classes: int) -> None:
    offsets, labels, logits = tensors["id_offsets"], tensors["labels"], tensors["logits"]
    ids = len(offsets) - 1
    if not ids == len(labels) == len(logits):
        raise ValueError(f"it has {ids} ids, {len(labels)} labels and {len(logits)} rows of logits")
    if offsets[0] != 0 or offsets[-1] != len(tensors["ids"]) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("its id_offsets do not match its ids")
    if logits.shape[1] != classes:
        raise ValueError(f"it has {classes} class names and {logits.shape[1]} logits per image")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"its labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")


def _split_ids(text: bytes, offsets: Sequence[int]) -> tuple[str, ...]:
    """The ids, split at the offsets; file names that are not UTF-8 are restored."""
    return tuple(text[start:stop].decode("utf-8", "surrogateescape") for start, stop in itertools.pairwise(offsets))
