"""The ONNX file that `cctkit export` writes: its parts, its digest, and the module that runs it in onnxruntime."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cctkit.errors import UserError
from cctkit.models.weights import HEADER_KEY, WeightsInfo, parse_header
from cctkit.text import safe_text

IMAGES, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
CLASSES_KEY, CONTRACT_KEY, WEIGHTS_KEY, VERIFICATION_KEY = (
    f"{HEADER_KEY}.{name}" for name in ("classes", "preprocessing", "weights_digest", "verification")
)
# The file ends with an entry of `ModelProto.metadata_props` (field 14; StringStringEntryProto has key 1 and value 2), whose
# value is the SHA-256 of all bytes before it and their number in ten digits. So it is checked without parsing the file, and
# other programs read the file as any other.
_DIGEST_START = b"\x72\x63" + b"\x0a\x0d" + f"{HEADER_KEY}.digest".encode() + b"\x12\x52" + b"sha256:"
_HEX, _DIGITS = 64, 10
_DIGEST_BYTES = len(_DIGEST_START) + _HEX + 1 + _DIGITS


class OnnxModel(nn.Module):
    """uint8 images (B, 3, H, W) of the header's `stored_size` -> logits, float32 (B, K), by onnxruntime on the CPU."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images)[0].to(images.device)

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, each float32 (B, K), on the CPU.

        Raises: UserError if onnxruntime cannot run the graph on them.
        """
        pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # (B, H, W, 3)
        try:
            logits, probabilities = self.session.run([LOGITS, PROBABILITIES], {IMAGES: pixels})
        except Exception as error:  # each kind of fault has its own exception, all of them private
            raise UserError(
                f"onnxruntime cannot run this graph: {safe_text(error)}", "the ONNX file", "export it again"
            ) from error
        return torch.from_numpy(logits), torch.from_numpy(probabilities)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxFile:
    """An ONNX file that was read.

    verification: what `cctkit export` found when it compared the file with torch; None with `--no-verify`.
    is_intact: whether the bytes are those that were written; False if another program wrote the file anew.
    notice: what to tell the user, if anything.
    """

    model: OnnxModel
    info: WeightsInfo
    verification: Mapping[str, Any] | None
    is_intact: bool
    notice: str | None


def sealed_onnx(data: bytes) -> bytes:
    """A serialized model with the digest of its bytes appended, as one more entry of its metadata."""
    return data + _digest_of(memoryview(data))


def _digest_of(data: memoryview) -> bytes:
    return _DIGEST_START + f"{hashlib.sha256(data).hexdigest()}:{len(data):0{_DIGITS}}".encode()


def read_onnx(path: Path, *, threads: int | None = None) -> OnnxFile:
    """Read an ONNX file of `cctkit export`.

    threads: of onnxruntime; None: as many as torch uses.

    Raises: UserError if there is no such file, if it is damaged or not from cctkit, or if onnxruntime is missing.
    """
    if not path.is_file():
        raise UserError("there is no such ONNX file", safe_text(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the ONNX file cannot be read: {safe_text(error.strerror)}", safe_text(path)) from error
    is_intact = _check_digest(data, path)
    session = open_session(data, path, threads=threads)
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise UserError("the metadata of the ONNX file are damaged", safe_text(path), "export it again") from error
    if HEADER_KEY not in metadata:
        raise UserError(
            "this ONNX file is not cctkit's: it says nothing about the model", safe_text(path), "cctkit export writes one"
        )
    info = parse_header(metadata[HEADER_KEY], path)
    _check_form(session, info, path)
    verification = _verification(metadata, path)
    notice = None
    if not is_intact:
        notice = f"{safe_text(path)} is not as cctkit export wrote it: what was verified then need not hold"
    elif verification is None:
        notice = f"{safe_text(path)} was exported with --no-verify: it was not compared with torch"
    return OnnxFile(model=OnnxModel(session), info=info, verification=verification, is_intact=is_intact, notice=notice)


def open_session(data: bytes, path: Path, *, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU. From bytes, which can refer to no other file.

    Raises: UserError if onnxruntime is missing, or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("onnxruntime is not installed", safe_text(path), "pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 4  # what it would print of an error is in what it raises
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise UserError(f"onnxruntime cannot open this file: {safe_text(error)}", safe_text(path)) from error


def _check_digest(data: bytes, path: Path) -> bool:
    """Whether the file ends with the digest of as many bytes as it has.

    A program that reads the file and writes it anew may keep the digest; the number of bytes tells.

    Raises: UserError if the digest is of other bytes.
    """
    body, tail = memoryview(data)[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not tail.startswith(_DIGEST_START) or tail[-_DIGITS:] != f"{len(body):0{_DIGITS}}".encode():
        return False
    if tail != _digest_of(body):
        raise UserError(
            "the ONNX file is damaged: some of its bytes are not those that were written", safe_text(path), "export it again"
        )
    return True


def _check_form(session: Any, info: WeightsInfo, path: Path) -> None:
    """Whether inputs and outputs are those that the header tells."""
    height, width = info.stored_size
    expected = {
        IMAGES: ("tensor(uint8)", [height, width, 3]),
        LOGITS: ("tensor(float)", [len(info.class_names)]),
        PROBABILITIES: ("tensor(float)", [len(info.class_names)]),
    }
    found = {each.name: (each.type, each.shape[1:]) for each in (*session.get_inputs(), *session.get_outputs())}
    if found != expected:
        raise UserError(
            f"its inputs and outputs are {safe_text(found)}, expected {safe_text(expected)}", safe_text(path), "export it again"
        )


def _verification(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(metadata[VERIFICATION_KEY])
        return found if found["verified"] else None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"its {VERIFICATION_KEY} is malformed: {safe_text(error)}", safe_text(path), "export it again"
        ) from error
