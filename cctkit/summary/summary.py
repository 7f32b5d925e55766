"""`summarize`: a model -> layers, parameters, multiply-adds and memory, as data."""

import math

from torch import nn

from cctkit.config.model import ModelConfig
from cctkit.config.size import Size
from cctkit.engine.device import DevicePolicy, assumed_policy
from cctkit.errors import UserError
from cctkit.models.build import build_without_data
from cctkit.summary.memory import Memory, drops_attention, largest_batch, predict_memory
from cctkit.summary.view import MB, Summary, Torchsummary
from cctkit.summary.walk import Layer, walk

_FLOAT_BYTES = 4


def summarize(
    model: nn.Module | ModelConfig,
    *,
    image_size: int | Size | None = None,
    batch_size: int = 128,
    optimizer: str = "adamw",
    policy: DevicePolicy | None = None,
    memory: bool = True,
    fit_bytes: int | None = None,
    name: str | None = None,
    channels: int = 3,
) -> Summary:
    """Layers, parameters, multiply-adds and the memory of a training step of any image model, which is not changed.

    Rows and totals are per image; batch_size, optimizer and policy change only the memory.

    image_size: side, or (height, width), in pixels (default: that of the model's configuration).
    policy: default: that of training on this machine if its CPU has been measured, otherwise float32 and chunked
        attention, which `notes` says. Nothing is measured, written or set.

    Raises: UserError if the model cannot be called on such images.
    """
    if isinstance(model, ModelConfig):
        name, config = name or model.name, model
        model = build_without_data(config)
    size = _size(model, image_size)
    walked = walk(model, image_size=size, channels=channels)
    predicted = fitting = note = None
    if memory or fit_bytes is not None:
        if policy is None:
            policy, note = assumed_policy(dropout=drops_attention(model))
        predicted, fitting = memory_of(
            model,
            image_size=size,
            batch_size=batch_size,
            optimizer=optimizer,
            policy=policy,
            fit_bytes=fit_bytes,
            channels=channels,
        )
    containing = [layer for layer in walked.layers if layer.contains_rows]
    parameters = list(model.parameters())
    return Summary(
        model=name or type(model).__name__,
        image_size=size,
        num_classes=walked.output_shape[-1] if walked.output_shape else 0,
        batch_size=batch_size,
        params=sum(weight.numel() for weight in parameters),
        trainable_params=sum(weight.numel() for weight in parameters if weight.requires_grad),
        layers=walked.layers,
        bare=walked.bare,
        torchsummary=_torchsummary(walked.layers, size, channels),
        containers=len(containing),
        containers_mb=sum(_outputs_mb(layer) for layer in containing),
        macs=walked.macs,
        macs_attention=walked.macs_attention,
        memory=predicted,
        fitting_batch=fitting,
        notes=(note,) if note else (),
    )


def memory_of(
    model: nn.Module,
    *,
    image_size: Size,
    batch_size: int,
    optimizer: str,
    policy: DevicePolicy,
    fit_bytes: int | None = None,
    channels: int = 3,
) -> tuple[Memory, int | None]:
    """The memory of a training step of `model`, and the largest batch whose step fits into `fit_bytes`.

    Raises: UserError if a training step of the model fails.
    """

    def predict(batch: int) -> Memory:
        return predict_memory(
            model, image_size=image_size, batch_size=batch, policy=policy, optimizer=optimizer, channels=channels
        )

    memory = predict(batch_size)
    return memory, None if fit_bytes is None else largest_batch(lambda batch: predict(batch).peak_bytes, fit_bytes)


def _size(model: nn.Module, wish: int | Size | None) -> Size:
    if wish is None:
        config = getattr(model, "config", None)
        if not isinstance(config, ModelConfig):
            raise UserError("the image size is not known", type(model).__name__, "summarize(model, image_size=224)")
        return config.image_size
    return (wish, wish) if isinstance(wish, int) else wish


def _torchsummary(layers: tuple[Layer, ...], size: Size, channels: int) -> Torchsummary | None:
    """The block (torchsummary.py, `summary`); None if an output is not a tensor, for which torchsummary raises."""
    if any(None in layer.output_shapes for layer in layers):
        return None
    total = sum(layer.params_torchsummary for layer in layers)
    trainable = sum(layer.params_torchsummary for layer in layers if layer.trainable)
    input_mb = channels * math.prod(size) * _FLOAT_BYTES / MB
    outputs_mb = abs(sum(_outputs_mb(layer) for layer in layers))
    params_mb = total * _FLOAT_BYTES / MB
    return Torchsummary(
        total_params=total,
        trainable_params=trainable,
        non_trainable_params=total - trainable,
        input_mb=input_mb,
        forward_backward_pass_mb=outputs_mb,
        params_mb=params_mb,
        estimated_total_mb=input_mb + outputs_mb + params_mb,
    )


def _outputs_mb(layer: Layer) -> float:
    """A row's outputs and their gradients in MB. For several outputs torchsummary multiplies the sizes of all of them."""
    numbers = math.prod(number for shape in layer.output_shapes for number in shape or ())
    return -numbers * 2 * _FLOAT_BYTES / MB
