"""Runs a model on the meta device and records each call of a module as torchsummary does, and what torchsummary misses.

torchsummary (sksq96/pytorch-summary, torchsummary/torchsummary.py) has a row for every call of every module except
Sequential, ModuleList and the model itself, and counts only parameters named `weight` and `bias`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cctkit.config.size import Size
from cctkit.errors import UserError
from cctkit.models.build import set_attention_impl
from cctkit.summary.clone import without_data

Shape = tuple[int, ...]
_BATCH = 2  # as in torchsummary: batch norm in training mode needs more than one image
# The products of activations with weights; all others are of two activations.
_WEIGHT_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A call of a module.

    layer: class name and number of the row, such as "Conv2d-1".
    path: name of the module in the model.
    depth: nesting depth, 1 for the outermost rows.
    output_shapes: of each output, with -1 for the batch; None for an output that is not a tensor.
    params: number of parameters named `weight` and `bias`; parameters of an earlier row count 0.
    params_torchsummary: the same, but counted again on every call.
    trainable: whether `weight` requires a gradient; None without a `weight`.
    contains_rows: whether other rows are nested in this one.
    """

    layer: str
    path: str
    depth: int
    output_shapes: tuple[Shape | None, ...]
    params: int
    params_torchsummary: int
    trainable: bool | None
    contains_rows: bool

    @property
    def output_shape(self) -> Any:
        """The shape as torchsummary prints it: one, or a list of several if the module returns a tuple."""
        shapes = [list(shape or ()) for shape in self.output_shapes]
        return shapes[0] if len(shapes) == 1 else shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a model computes.

    layers: the rows in order.
    bare: name and size of each parameter that no row counts.
    output_shape: of the model, batch first.
    macs: multiply-adds of all matrix products and convolutions, per image.
    macs_attention: the part of `macs` that multiplies two activations (attention, sequence pooling).
    """

    layers: tuple[Layer, ...]
    bare: tuple[tuple[str, int], ...]
    output_shape: Shape
    macs: int
    macs_attention: int


def walk(model: nn.Module, *, image_size: Size, channels: int = 3) -> Walk:
    """Call a copy of `model` on images (2, channels, height, width) without data; the model itself is not changed.

    Raises: UserError if the model cannot be called on such images.
    """
    counter = FlopCounterMode(display=False)
    images = torch.empty(_BATCH, channels, *image_size, device="meta")
    try:
        clone = without_data(model, "meta")
        set_attention_impl(clone, "plain")
        recorder = _Recorder(clone)
        with torch.no_grad(), counter:
            output = clone(images)
    except UserError:
        raise
    except Exception as error:
        size = "x".join(map(str, image_size))
        raise UserError(
            f"the model does not take {channels}-channel images of {size} pixels: {first_line(error)}",
            type(model).__name__,
            "pass the size that the model was made for (--image-size)",
        ) from error
    flops = counter.get_flop_counts().get("Global", {})
    attention = sum(count for operator, count in flops.items() if operator not in _WEIGHT_PRODUCTS)
    return Walk(
        layers=tuple(recorder.layers),
        bare=tuple(recorder.bare(clone)),
        output_shape=tuple(output.shape) if isinstance(output, Tensor) else (),
        macs=counter.get_total_flops() // (2 * _BATCH),
        macs_attention=attention // (2 * _BATCH),
    )


@dataclass(slots=True, eq=False)
class _Recorder:
    """Hooks on every module of a model that record the rows."""

    model: nn.Module
    layers: list[Layer] = field(default_factory=list)
    _open: list[int] = field(default_factory=list)  # of each open call the number of rows before it
    _counted: set[int] = field(default_factory=set)  # ids of the parameters that a row counts

    def __post_init__(self) -> None:
        for path, module in self.model.named_modules():
            if module is not self.model and not isinstance(module, (nn.Sequential, nn.ModuleList)):
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end_of(path))

    def _begin(self, *_: Any) -> None:
        self._open.append(len(self.layers))

    def _end_of(self, path: str) -> Any:
        def end(module: nn.Module, _: Any, output: Any) -> None:
            before = self._open.pop()
            weights = list(_weights_seen(module))
            first = [weight for weight in weights if id(weight) not in self._counted]
            self._counted.update(map(id, first))
            self.layers.append(
                Layer(
                    layer=f"{type(module).__name__}-{len(self.layers) + 1}",
                    path=path,
                    depth=len(self._open) + 1,
                    output_shapes=tuple(_shapes(output)),
                    params=sum(weight.numel() for weight in first),
                    params_torchsummary=sum(weight.numel() for weight in weights),
                    trainable=_trainable(module),
                    contains_rows=len(self.layers) > before,
                )
            )

        return end

    def bare(self, model: nn.Module) -> Iterator[tuple[str, int]]:
        """Name and size of the parameters that no row counts."""
        for name, weight in model.named_parameters():
            if id(weight) not in self._counted:
                yield name, weight.numel()


def _weights_seen(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of a module that torchsummary counts: `weight` and `bias`, parameters or buffers."""
    for name in ("weight", "bias"):
        weight = getattr(module, name, None)
        if isinstance(weight, Tensor):
            yield weight


def _trainable(module: nn.Module) -> bool | None:
    weight = getattr(module, "weight", None)
    return weight.requires_grad if isinstance(weight, Tensor) else None


def _shapes(output: Any) -> Iterator[Shape | None]:
    outputs = output if isinstance(output, (list, tuple)) else [output]
    for each in outputs:
        yield (-1, *each.shape[1:]) if isinstance(each, Tensor) else None


def first_line(error: Exception) -> str:
    """The first line of the message of `error`."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def fold(layers: tuple[Layer, ...], depth: int) -> tuple[Layer, ...]:
    """The rows of at most this depth. A row includes the parameters of the rows nested in it, and is trainable if any of
    them is."""
    kept: list[Layer] = []
    inside: list[Layer] = []
    for layer in layers:  # a row comes after those nested in it
        inside.append(layer)
        if layer.depth > depth:
            continue
        if layer.depth == depth:
            marks = [each.trainable for each in inside if each.trainable is not None]
            layer = replace(
                layer,
                params=sum(each.params for each in inside),
                params_torchsummary=sum(each.params_torchsummary for each in inside),
                trainable=any(marks) if marks else None,
            )
        kept.append(layer)
        inside.clear()
    return tuple(kept)
