"""Tensors without data, and the mode in which all tensors are so: a training step runs and nothing is computed.

torch's FakeTensorMode does this too, and takes two and a half times as long for a step of ViT-H/14: here each operation
goes to torch's own shape inference, on the meta device, with nothing around it.
"""

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_CPU, _META = torch.device("cpu"), torch.device("meta")


class ShapeOnlyTensor(Tensor):
    """A tensor that says that it is on the CPU, and has no data; `meta`: its like on the meta device."""

    meta: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, meta: Tensor) -> "ShapeOnlyTensor":
        self = Tensor._make_wrapper_subclass(
            cls, meta.shape, meta.stride(), meta.storage_offset(), dtype=meta.dtype, device=_CPU
        )
        self.meta = meta
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} of a tensor without data, outside of the mode that made it")


class MemoryTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes all tensors without data, and counts the bytes of every storage from the operation that makes it to its end."""

    def __init__(self, *, rounded_to: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self._rounded_to = rounded_to
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.aten._local_scalar_dense.default:
            return True  # the step asks only whether all is well
        target = _written(func)
        if target is not None:  # makes nothing new, and there is nothing to compute
            return kwargs.get(target, args[0] if args else None) if func._schema.returns else None
        if _takes_device(func):
            kwargs["device"] = _META
        out = func(*_mapped(_meta_of, args), **{name: _mapped(_meta_of, each) for name, each in kwargs.items()})
        return _mapped(self._made, out)

    def _made(self, out: Any) -> Any:
        if not isinstance(out, Tensor):
            return out
        self._add(out.untyped_storage())
        return ShapeOnlyTensor(out)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // self._rounded_to) * self._rounded_to
        self._known.add(key)
        weakref.finalize(storage, self._drop, key, size)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The function's values, in as many lists as there are around."""
    return [_mapped(function, each) for each in value] if isinstance(value, (list, tuple)) else function(value)


def _meta_of(value: Any) -> Any:
    if isinstance(value, ShapeOnlyTensor):
        return value.meta
    if isinstance(value, Tensor):  # one that was made before the mode
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
    return None if isinstance(value, torch.Generator) else value


@functools.cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


@functools.cache
def _written(func: Any) -> str | None:
    """The argument that an in-place operation writes and returns, "" where it returns nothing, None for all others."""
    schema = func._schema
    if not schema.is_mutable:
        return None
    if not schema.returns:
        return ""
    found = [each.name for each in schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    return found[0] if len(found) == len(schema.returns) == 1 else None
