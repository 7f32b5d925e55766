"""From a trained model to a serialized ONNX graph that takes uint8 images."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cctkit.data.preprocess import Preprocess
from cctkit.errors import UserError
from cctkit.evaluation.calibration import probabilities
from cctkit.evaluation.load import LoadedModel
from cctkit.models.build import set_attention_impl
from cctkit.models.onnx_file import IMAGES, LOGITS, PROBABILITIES
from cctkit.text import safe_text

OPSET = 20
_MOST_BYTES = 2**31 - 2**24  # protobuf holds 2 GiB; the graph itself takes far less than 16 MiB
_EXAMPLES = 2  # with a batch of one, torch.export would fix the size


class _Deployed(nn.Module):
    """uint8 (B, h, w, 3) -> logits and probabilities (B, K): normalization, upsampling, model, softmax with temperature."""

    def __init__(self, model: nn.Module, preprocess: Preprocess, temperature: float | None) -> None:
        super().__init__()
        self.model, self.preprocess, self.temperature = model, preprocess, temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.preprocess.to_input(images.permute(0, 3, 1, 2), channels_last=False)
        logits = self.model(x)
        return logits, probabilities(logits, self.temperature)


def onnx_graph(loaded: LoadedModel) -> Any:
    """The model as an `onnx.ModelProto` without names of this machine's files.

    Raises: UserError if the weights do not fit into one file, or if onnxscript is too old for torch.
    """
    size = sum(4 * weight.numel() for weight in loaded.model.state_dict().values())
    if size > _MOST_BYTES:
        raise UserError(f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds 2", safe_text(loaded.info.model.name))
    set_attention_impl(loaded.model, "plain")
    height, width = loaded.preprocess.stored_size
    images = torch.zeros(_EXAMPLES, height, width, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            _Deployed(loaded.model, loaded.preprocess, loaded.info.temperature).eval(),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[IMAGES],
            output_names=[LOGITS, PROBABILITIES],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    proto = program.model_proto
    _strip(proto)
    return proto


def serialized(proto: Any, metadata: Mapping[str, str]) -> bytes:
    """The model with this metadata as bytes; equal weights give equal bytes."""
    del proto.metadata_props[:]
    for key, value in sorted(metadata.items()):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(proto.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's log messages and deprecation warnings, which are about torch's own code."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:  # torch imports what a later onnxscript has
        raise UserError(
            f"onnxscript does not fit torch {torch.__version__}: {safe_text(error)}",
            "cctkit export",
            "pip install -U onnx onnxscript onnxruntime",
        ) from error
    finally:
        logger.setLevel(before)


def _strip(proto: Any) -> None:
    """Remove what the exporter notes about the Python code: stack traces with paths of this machine, and names of its nodes."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
