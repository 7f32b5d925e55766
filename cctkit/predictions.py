"""The predictions of a run on its test images: ids, labels and logits, to compare two runs image by image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cctkit.errors import UserError
from cctkit.rundir import write_atomic
from cctkit.text import safe_text

if TYPE_CHECKING:
    import numpy as np

_KEY = "cctkit"
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """ids of the n images, labels int64 (n,), logits float32 (n, K), and what they are of."""

    ids: tuple[str, ...]
    labels: "np.ndarray[Any, Any]"
    logits: "np.ndarray[Any, Any]"
    class_names: tuple[str, ...]
    split: str
    fingerprint: str


def write_predictions(
    path: Path,
    *,
    ids: Sequence[str],
    labels: "np.ndarray[Any, Any]",
    logits: "np.ndarray[Any, Any]",
    class_names: Sequence[str],
    split: str,
    fingerprint: str,
) -> None:
    """Write a predictions file atomically."""
    import numpy as np
    from safetensors.numpy import save

    encoded = [text.encode("utf-8", "surrogateescape") for text in ids]
    header = {"schema_version": _SCHEMA, "class_names": list(class_names), "split": split, "fingerprint": fingerprint}
    tensors = {
        "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "id_offsets": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        "labels": np.ascontiguousarray(labels, dtype=np.int64),
        "logits": np.ascontiguousarray(logits, dtype=np.float32),
    }
    write_atomic(path, save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)}))


def read_predictions(path: Path) -> Predictions:
    """The predictions in `path`.

    Raises: UserError where there are none, or the file is malformed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            blob, offsets, labels, logits = (file.get_tensor(name) for name in ("ids", "id_offsets", "labels", "logits"))
        text = blob.tobytes()
        ids = tuple(text[a:b].decode("utf-8", "surrogateescape") for a, b in zip(offsets[:-1], offsets[1:], strict=True))
        if not len(ids) == len(labels) == len(logits):
            raise ValueError("ids, labels and logits differ in length")
        return Predictions(
            ids=ids,
            labels=labels,
            logits=logits,
            class_names=tuple(header["class_names"]),
            split=header["split"],
            fingerprint=header["fingerprint"],
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no predictions can be read: {safe_text(error)}", safe_text(path), "make them: cctkit eval RUN") from error
