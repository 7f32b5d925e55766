"""The floor of a training step: every matrix product and convolution of the plain step at its shape, timed alone.

Each is timed with preallocated output in warm memory, in float32 and bf16 (convolutions also in both layouts); the
fastest of all runs of the fastest form counts.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)


class _Recorder(TorchDispatchMode):
    """Counts each product and convolution by shape while the plain step runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            a, b = args[-2:]
            self.calls["product", _form(a), _form(b)] += 1
        elif func is aten.convolution.default:
            x, weight, _, stride, padding = args[:5]
            self.calls["conv", tuple(x.shape), tuple(weight.shape), tuple(stride), tuple(padding)] += 1
        elif func is aten.convolution_backward.default:
            grad, x, weight, _, stride, padding = args[:6]
            key = ("conv_backward", tuple(grad.shape), tuple(x.shape), tuple(weight.shape), tuple(stride), tuple(padding))
            self.calls[(*key, tuple(args[-1][:2]))] += 1
        return func(*args, **(kwargs or {}))


def _form(x: Tensor) -> tuple[tuple[int, ...], bool]:
    """Shape, and whether the last two dimensions are transposed in memory."""
    return tuple(x.shape), x.stride(-1) != 1 and x.stride(-2) == 1


class Floor:
    """The products and convolutions that one call of `step` makes, each ready to be timed alone."""

    def __init__(self, step: Callable[[], object]) -> None:
        with _Recorder() as recorder:
            step()
        self._calls = [(count, list(_forms(key))) for key, count in recorder.calls.items()]
        self._fastest = [float("inf")] * len(self._calls)

    def seconds(self, rounds: int) -> float:
        """Time each form `rounds` times more; the sum of the fastest runs so far."""
        for i, (_, forms) in enumerate(self._calls):
            self._fastest[i] = min(self._fastest[i], *(_fastest_run(run, rounds) for run in forms))
        return sum(count * best for (count, _), best in zip(self._calls, self._fastest, strict=True))


def _forms(key: tuple[Any, ...]) -> Iterator[Callable[[], object]]:
    for dtype in (torch.float32, torch.bfloat16):
        if key[0] == "product":
            yield _product(*key[1:], dtype=dtype)
        else:
            for layout in (torch.contiguous_format, torch.channels_last):
                yield (_conv if key[0] == "conv" else _conv_backward)(*key[1:], dtype=dtype, layout=layout)


def _product(a: Any, b: Any, *, dtype: torch.dtype) -> Callable[[], object]:
    x, y = (_matrix(form, dtype) for form in (a, b))
    out = torch.matmul(x, y)
    return lambda: torch.matmul(x, y, out=out)


def _matrix(form: Any, dtype: torch.dtype) -> Tensor:
    shape, transposed = form
    if transposed:
        return torch.randn(*shape[:-2], shape[-1], shape[-2], dtype=dtype).transpose(-2, -1)
    return torch.randn(shape, dtype=dtype)


def _image(shape: Any, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    return torch.randn(shape, dtype=dtype).to(memory_format=layout)


def _conv(x: Any, weight: Any, stride: Any, padding: Any, *, dtype: torch.dtype, layout: Any) -> Callable[[], object]:
    images, kernel = _image(x, dtype, layout), _image(weight, dtype, layout)
    return lambda: torch.conv2d(images, kernel, None, stride, padding)


def _conv_backward(
    grad: Any, x: Any, weight: Any, stride: Any, padding: Any, mask: Any, *, dtype: torch.dtype, layout: Any
) -> Callable[[], object]:
    gradient, images, kernel = (_image(shape, dtype, layout) for shape in (grad, x, weight))
    return lambda: aten.convolution_backward(
        gradient, images, kernel, None, stride, padding, [1, 1], False, [0, 0], 1, [*mask, False]
    )


def _fastest_run(run: Callable[[], object], rounds: int) -> float:
    run()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
