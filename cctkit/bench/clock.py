"""Measures time and peak memory on a device."""

import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from cctkit.torch_private import allocations


def seconds(run: Callable[[], object], device: str) -> float:
    """The seconds from before `run` until its work on the device is done."""
    if device != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    events: Any = torch.cuda.Event
    first, last = events(enable_timing=True), events(enable_timing=True)
    torch.cuda.synchronize()
    first.record()
    run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Peak of the memory that `run` allocates."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    return max(accumulate(allocations(profiler)))
