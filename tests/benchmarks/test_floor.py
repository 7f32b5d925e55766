"""The benchmark's floor and clock: every product is counted and timed in the form it has, and memory by the allocator."""

from collections.abc import Iterable, Mapping

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import floor as floor_module
from benchmarks.speed.floor import Floor, Matrix, Operation, Product, forms, record
from benchmarks.speed.plain import PlainSide
from cctkit.bench.clock import peak_bytes
from cctkit.bench.task import MODELS, Task


def flops_of_forms(calls: Mapping[Operation, int]) -> set[int]:
    """What torch counts where each operation runs as the floor times it: once for all first forms, the second ones, ..."""
    totals: dict[int, int] = {}
    for operation, count in calls.items():
        for i, form in enumerate(forms(operation, "cpu")):
            ready = operation.ready(form)
            with FlopCounterMode(display=False) as counter:
                ready()
            for slot in [i] if len(operation.layouts) == 2 else [2 * i, 2 * i + 1]:
                totals[slot] = totals.get(slot, 0) + count * counter.get_total_flops()
    return set(totals.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_floor_has_every_product_of_a_real_step_and_no_other(name: str) -> None:
    """Fails when a kind of product is not recorded, or timed with another shape, stride, padding or set of gradients."""
    task = Task(model=name, device="cpu", batch_size=2, image_size=(16, 16))
    side = PlainSide(task)
    with FlopCounterMode(display=False) as step:
        side.train(side.batch)
    with FlopCounterMode(display=False) as inference, torch.no_grad():
        side.model.eval()(side.batch[0])
    counts = record(task)
    assert flops_of_forms(counts["step"]) == {step.get_total_flops()}
    assert flops_of_forms(counts["inference"]) == {inference.get_total_flops()}


def test_products_are_timed_with_operands_transposed_as_the_step_has_them() -> None:
    form = next(forms(Product(Matrix((3, 4), True), Matrix((4, 5), False)), "cpu"))
    x = torch.empty(2, 4, 3).transpose(1, 2)
    assert Matrix.of(x) == Matrix((2, 3, 4), True)
    made = Matrix.of(x).made(form)
    assert (made.shape, made.stride()) == (x.shape, x.stride())
    assert Matrix.of(x.contiguous()) == Matrix((2, 3, 4), False)


def test_the_shortest_run_of_the_fastest_form_counts_as_often_as_the_step_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = Product(Matrix((2, 2), False), Matrix((2, 2), False))
    seen: list[torch.dtype] = []

    def clock(times: Iterable[float]) -> None:
        left = iter(times)

        def seconds(run: object, device: str) -> float:
            return next(left)

        monkeypatch.setattr(floor_module, "seconds", seconds)

    monkeypatch.setattr(Product, "ready", lambda self, form: seen.append(form.dtype) or (lambda: None))
    floor = Floor({"step": {operation: 3}, "inference": {operation: 1}}, "cpu")
    clock([4, 3, 5, 3.5, 7, 4, 2.5, 6])  # three runs of float32, three of bf16, the fourth of each
    assert floor.measure(4) == {"step": 7.5, "inference": 2.5}
    clock([3, 4, 3, 4.6, 5, 4.7, 2, 9])  # bf16 is over 1.5 times slower: no fourth and fifth run of it
    assert floor.measure(5) == {"step": 6, "inference": 2}
    clock([3, 3, 3, 3])
    assert floor.measure(4) == {"step": 6, "inference": 2}
    assert seen == [torch.float32, torch.bfloat16] * 3 + [torch.float32] * 3


def test_the_peak_is_the_most_that_was_allocated_at_one_time() -> None:
    kept = []
    before = torch.empty(2**20, dtype=torch.uint8)

    def run() -> None:
        nonlocal before
        kept.append(torch.empty(2**20, dtype=torch.uint8))
        passing = torch.empty(4 * 2**20, dtype=torch.uint8)
        del passing
        kept.append(torch.empty(2 * 2**20, dtype=torch.uint8))
        before = torch.empty(1, dtype=torch.uint8)

    assert peak_bytes(run, "cpu") == 5 * 2**20
