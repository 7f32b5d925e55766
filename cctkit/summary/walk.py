"""A walk of a model, call by call, on the meta device: what torchsummary prints, and what it cannot see.

torchsummary (sksq96/pytorch-summary, torchsummary/torchsummary.py) makes a row of every call of every module that is not
a Sequential, a ModuleList or the model itself, and counts of its weights those named `weight` and `bias`.
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
_BATCH = 2  # as torchsummary: batch norm in training mode refuses one image
# The products of activations with weights; all others are of two activations.
_WEIGHT_PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A call of a module.

    layer: class name and row, as "Conv2d-1"; path: the module's name in the model; depth: 1 for a row inside of no
    other; output_shapes: of each output, the batch as -1, None where an output is no tensor; params: of the weights named
    `weight` and `bias`, 0 where an earlier row has them already; params_torchsummary: those of every call; trainable:
    whether its `weight` is, None without one; contains_rows: whether other rows lie inside of it.
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
        """The shape as torchsummary has it: one, or a list where the module returns a tuple."""
        return (
            list(self.output_shapes[0] or ()) if len(self.output_shapes) == 1 else [list(s or ()) for s in self.output_shapes]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """layers: the rows in order; bare: name and count of each parameter that no row counts; output_shape: the model's,
    batch first; macs: of one image, multiply-adds of all matrix products and convolutions; macs_attention: of those the
    products of two activations (attention, sequence pooling)."""

    layers: tuple[Layer, ...]
    bare: tuple[tuple[str, int], ...]
    output_shape: Shape
    macs: int
    macs_attention: int


def walk(model: nn.Module, *, image_size: Size, channels: int = 3) -> Walk:
    """Call a copy of `model` on images (2, channels, height, width) without data. The model itself stays as it is.

    Raises: UserError where the model cannot be called so.
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
            "give the size that it was made for (--image-size)",
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
    """Hooks on every module of a model that make the rows."""

    model: nn.Module
    layers: list[Layer] = field(default_factory=list)
    _open: list[int] = field(default_factory=list)  # rows begun, by the number of rows before each
    _counted: set[int] = field(default_factory=set)  # ids of the weights that a row has

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
        """The parameters that no row counted."""
        for name, weight in model.named_parameters():
            if id(weight) not in self._counted:
                yield name, weight.numel()


def _weights_seen(module: nn.Module) -> Iterator[Tensor]:
    """What torchsummary counts of a module: `weight` and `bias`, parameters or buffers."""
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
    """What an error says, in a line."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def fold(layers: tuple[Layer, ...], depth: int) -> tuple[Layer, ...]:
    """The rows of at most this depth, each with the weights of the rows inside of it that are left out.

    Such a row is trainable where any of these is.
    """
    kept: list[Layer] = []
    inside: list[Layer] = []
    for layer in layers:  # a row comes after those inside of it
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
