"""Each private name of torch does what the package uses it for, and only one module has any."""

import ast
import weakref
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from cctkit import torch_private

aten = torch.ops.aten


class _Wrapped(Tensor):
    dispatched: ClassVar[list[Any]] = []

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def, override]
        cls.dispatched.append(func)
        return torch.empty(2, device="meta")


def test_a_wrapper_has_the_shape_and_strides_of_its_tensor_on_another_device() -> None:
    tensor = torch.empty(2, 3, 4, dtype=torch.bfloat16, device="meta").transpose(0, 2)
    wrapper = torch_private.wrapper_of(_Wrapped, tensor, torch.device("cpu"))
    assert type(wrapper) is _Wrapped
    assert (wrapper.shape, wrapper.stride(), wrapper.dtype) == ((4, 3, 2), (1, 4, 12), torch.bfloat16)
    assert wrapper.device.type == "cpu"


def test_an_operation_on_a_wrapper_goes_to_its_dispatch() -> None:
    wrapper = torch_private.wrapper_of(_Wrapped, torch.empty(2, device="meta"), torch.device("cpu"))
    _Wrapped.dispatched.clear()
    assert type(torch.neg(wrapper)) is Tensor
    assert _Wrapped.dispatched == [aten.neg.default]


def test_a_dispatch_mode_sees_every_operator() -> None:
    seen = []

    class Mode(torch_private.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.ones(2, 2)
    with Mode():
        (x @ x).add_(1)
    assert seen == [aten.mm.default, aten.add_.Tensor]


def test_one_python_object_stands_for_a_storage_as_long_as_it_lives() -> None:
    """On this the predicted memory is built: `summary/shape_only.py` counts a storage by its object's id and finalizer."""
    freed = []
    x = torch.empty(4)
    view = x[1:].detach()
    assert x.untyped_storage() is view.untyped_storage()
    weakref.finalize(x.untyped_storage(), freed.append, "freed")
    del x
    assert freed == []
    del view
    assert freed == ["freed"]


def test_operators_that_make_tensors_take_a_device() -> None:
    assert torch_private.takes_device(aten.empty.memory_format)
    assert torch_private.takes_device(aten.zeros_like.default)
    assert not torch_private.takes_device(aten.add.Tensor)


def test_the_argument_that_an_operator_writes_is_named() -> None:
    assert torch_private.written_argument(aten.add_.Tensor) == "self"
    assert torch_private.written_argument(aten.mm.out) == "out"
    assert torch_private.written_argument(aten._foreach_add_.Scalar) == ""
    assert torch_private.written_argument(aten.add.Tensor) is None


def test_flash_attention_without_data_keeps_no_matrix_of_weights() -> None:
    q, k, v = (torch.empty(2, 3, 5, 8, dtype=torch.float16, device="meta", requires_grad=True) for _ in range(3))
    out = torch_private.flash_attention(q, k, v, 0.1, False)
    assert (out.shape, out.device.type) == ((2, 3, 5, 8), "meta")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):  # type: ignore[func-returns-value]
        torch_private.flash_attention(q, k, v, 0.1, False)
    assert saved
    assert (2, 3, 5, 5) not in saved


def test_hooks_that_see_outputs_are_removed() -> None:
    seen: list[str] = []
    linear = nn.Linear(2, 2)
    linear.register_forward_pre_hook(lambda *_: seen.append("before"))
    linear.register_forward_hook(lambda *_: seen.append("forward"))
    linear.register_full_backward_hook(lambda *_: seen.append("backward"))
    torch_private.clear_output_hooks(linear)
    linear(torch.ones(1, 2, requires_grad=True)).sum().backward()
    assert seen == ["before"]


def test_the_profiler_tells_each_allocation_in_order() -> None:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        small = torch.empty(1024, dtype=torch.uint8)
        large = torch.empty(4096, dtype=torch.uint8)
        del small, large
    assert torch_private.allocations(profiler) == [1024, 4096, -1024, -4096]


def test_no_other_module_uses_private_names_of_torch() -> None:
    found = []
    for path in sorted((Path(__file__).parents[1] / "cctkit").rglob("*.py")):
        if path.name == "torch_private.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("torch.", "nn.", "Tensor.")):
                names = [node.attr]
            found += [f"{path.name}: {name}" for name in names if name.startswith("_") and not name.startswith("__")]
    assert found == []
