"""The floor: the time of all matrix products and convolutions of the plain step, each timed alone at its shape.

Inputs and outputs are in memory that was used before. Each operation is tried in float32 and bf16, convolutions in both memory
formats, and its shortest run counts. No program that computes the same products can be faster, even without softmax, norms and
optimizer.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.plain import plain_model
from cctkit.bench.clock import seconds
from cctkit.bench.task import Task
from cctkit.torch_private import TorchDispatchMode

aten = torch.ops.aten
Shape = tuple[int, ...]
Run = Callable[[], object]

_TRIAL_RUNS = 3  # of each form
_HOPELESS = 1.5  # a form that takes this many times as long as the fastest is not run again
_LAUNCHES = 10  # timed together on CUDA, where the launch of one would dominate


@dataclass(frozen=True, slots=True)
class Form:
    """Number format, memory format and device of an operation."""

    dtype: torch.dtype
    layout: torch.memory_format
    device: str

    def tensor(self, shape: Shape) -> Tensor:
        """Numbers from -1 to 1, in this form."""
        size = torch.Size(shape)
        numbers = torch.linspace(-1, 1, size.numel(), dtype=self.dtype, device=self.device).view(size)
        return numbers.contiguous(memory_format=self.layout)


@dataclass(frozen=True, slots=True)
class Matrix:
    """Shape of an operand, and whether its last two dimensions are transposed in memory."""

    shape: Shape
    transposed: bool

    @classmethod
    def of(cls, x: Tensor) -> "Matrix":
        return cls(tuple(x.shape), x.stride(-1) != 1 and x.stride(-2) == 1)

    def made(self, form: Form) -> Tensor:
        if not self.transposed:
            return form.tensor(self.shape)
        return form.tensor((*self.shape[:-2], self.shape[-1], self.shape[-2])).transpose(-2, -1)


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product, or a batch of them."""

    a: Matrix
    b: Matrix
    layouts = (torch.contiguous_format,)

    def ready(self, form: Form) -> Run:
        a, b = self.a.made(form), self.b.made(form)
        out = torch.matmul(a, b)
        return lambda: torch.matmul(a, b, out=out)


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution or its backward, without the bias. torch takes no output to write to, but the allocator keeps the memory.

    tensors: shapes of the operator's tensors.
    options: its other arguments, from the stride on.
    """

    operator: Any
    tensors: tuple[Shape, ...]
    options: tuple[Any, ...]
    layouts = (torch.contiguous_format, torch.channels_last)

    def ready(self, form: Form) -> Run:
        tensors = [form.tensor(shape) for shape in self.tensors]
        return lambda: self.operator(*tensors, None, *self.options)


Operation = Product | Convolution
_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products and convolutions within a `with` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[Operation] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in _PRODUCTS:
            self.calls[Product(*map(Matrix.of, args[-2:]))] += 1
        elif func is aten.convolution.default:
            self.calls[_convolution(func, args[:2], args[3:])] += 1
        elif func is aten.convolution_backward.default:
            wanted = (*args[-1][:2], False)  # gradients of images and weight
            self.calls[_convolution(func, args[:3], (*args[4:-1], wanted))] += 1
        return func(*args, **(kwargs or {}))


def _convolution(operator: Any, tensors: Sequence[Tensor], options: Sequence[Any]) -> Convolution:
    shapes = tuple(tuple(each.shape) for each in tensors)
    return Convolution(operator, shapes, tuple(tuple(each) if isinstance(each, list) else each for each in options))


def record(task: Task) -> dict[str, Counter[Operation]]:
    """The operations of a plain training `step` and of a plain `inference`, with their counts; computes nothing."""
    with torch.device("meta"):
        model = plain_model(task.architecture())
        images = torch.empty(task.batch_size, 3, *task.architecture().image_size)
    with _Recorder() as step:
        model.train()(images).sum().backward()
    with _Recorder() as inference, torch.no_grad():
        model.eval()(images)
    return {"step": step.calls, "inference": inference.calls}


def forms(operation: Operation, device: str) -> Iterator[Form]:
    """The forms in which an operation is tried."""
    halves = (torch.bfloat16, torch.float16) if device == "cuda" else (torch.bfloat16,)
    for dtype in (torch.float32, *halves):
        for layout in operation.layouts:
            yield Form(dtype, layout, device)


class Floor:
    """The operations of a task, and the shortest time of each."""

    def __init__(self, counts: Mapping[str, Mapping[Operation, int]], device: str) -> None:
        self.counts = counts
        self._forms = {each: list(forms(each, device)) for part in counts.values() for each in part}
        self._shortest = dict.fromkeys(self._forms, float("inf"))

    def measure(self, runs: int) -> dict[str, float]:
        """Time each operation `runs` more times, at least 4; return the seconds of each part by the shortest runs so far."""
        for operation, candidates in self._forms.items():
            trial = {form: _shortest(operation, form, _TRIAL_RUNS) for form in candidates}
            kept = [form for form in candidates if trial[form] <= _HOPELESS * min(trial.values())]
            more = [_shortest(operation, form, runs - _TRIAL_RUNS) for form in kept]
            self._forms[operation] = kept
            self._shortest[operation] = min(self._shortest[operation], *trial.values(), *more)
        return {name: sum(count * self._shortest[each] for each, count in part.items()) for name, part in self.counts.items()}


def _shortest(operation: Operation, form: Form, runs: int) -> float:
    """The shortest of `runs` runs, after one to warm up."""
    ready = operation.ready(form)
    launches = _LAUNCHES if form.device == "cuda" else 1

    def run() -> None:
        for _ in range(launches):
            ready()

    run()
    return min(seconds(run, form.device) for _ in range(runs)) / launches
