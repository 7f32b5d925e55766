"""Which exceptions mean out of memory."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cctkit.cli import app
from cctkit.errors import ResourceError, is_out_of_memory
from cctkit.training import loop

FULL = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 384.00 KB, max allowed: 9.07 GB)."),
]
OTHER = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("required rank 4 tensor to use channels_last format: memory format"),
    RuntimeError("unsupported operation: some elements of the input tensor and the written-to tensor refer to a single memory"),
    RuntimeError("Trying to share 9 bytes of memory between processes failed"),
    ValueError("DefaultCPUAllocator: can't allocate memory"),
]
NAMES: Any = {"ids": lambda error: f"{type(error).__name__} {str(error)[:40]}"}


@pytest.mark.parametrize("error", FULL, **NAMES)
def test_out_of_memory_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, **NAMES)
def test_other_errors_that_mention_memory_are_not_out_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_the_error_of_torchs_allocator_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def train(error: BaseException, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "begin", lambda *_, **__: (None, SimpleNamespace(epochs_done=0)))
    patch.setattr(loop, "_report_start", lambda _: None)
    patch.setattr(loop, "_train_epoch", raising(error))
    config = SimpleNamespace(epochs=1, batch_size=8, accumulate=1, early_stopping=None)
    with pytest.raises(ResourceError, match="--accumulate 2"):
        loop._fit(SimpleNamespace(config=config, policy=SimpleNamespace(device="cuda")), resume=False, keep=raising(error))  # type: ignore[arg-type]


def command(error: BaseException, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(app, "app", raising(error))
    assert app.run([]) == ResourceError.exit_code


@pytest.mark.parametrize("place", [train, command])
def test_every_caller_uses_the_same_check(place: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    for error in FULL:
        place(error, monkeypatch)
    for error in OTHER:
        with pytest.raises(type(error)) as caught:
            place(error, monkeypatch)
        assert caught.value is error
