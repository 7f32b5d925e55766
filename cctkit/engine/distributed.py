"""Several processes that train one model: ranks, collectives and shared errors.

`torchrun` starts them, and `torch.distributed` connects them: gloo for CPU tensors, and NCCL for CUDA tensors.
"""

import contextlib
import gc
import os
import platform
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # documented, but not in an __all__
from torch.distributed.rendezvous import rendezvous

from cctkit.engine.device import DevicePolicy, choose_device, take_device
from cctkit.engine.signals import StopRequest
from cctkit.errors import ElsewhereError, StoppedError, UserError

_LONGEST_WAIT = timedelta(days=7)  # for one process to pack a data set; dead processes are found by torchrun, not by a timeout
_POLL_S = 0.02
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DistContext:
    """This process among the `world_size` processes of a job, and its collectives, which do nothing if that is 1.

    All ranks have to call the same methods in the same order, as with `torch.distributed`.

    rank: rank 0 writes files and reports.
    local_rank, local_world_size: rank and number of processes on this machine.
    restarts: how often torchrun has restarted the job.
    cpu_group: process group for CPU tensors; None: the default one.
    device_group: process group for tensors on the devices.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restarts: int = 0
    cpu_group: Any = None
    device_group: Any = None

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    def all_gather_object(self, value: _T) -> list[_T]:
        """The picklable value of every rank, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.cpu_group)
        return values

    def broadcast_object(self, value: _T) -> _T:
        """The picklable value of rank 0; those of other ranks are ignored."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group_src=0, group=self.cpu_group)
        return values[0]

    @contextlib.contextmanager
    def sync_errors(self) -> Iterator[None]:
        """End on all ranks if one rank raises a UserError or StoppedError inside the context, which must not use collectives.

        The first rank with an error raises it; the others raise ElsewhereError, which is not printed.
        """
        error: UserError | StoppedError | None = None
        try:
            yield
        except (UserError, StoppedError) as caught:
            error = caught
        codes = self.all_gather_object(error.exit_code if error else 0)
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed == self.rank and error is not None:
            raise error
        if failed is not None:
            raise ElsewhereError(codes[failed])

    def run_on_rank0(self, work: Callable[[], _T]) -> _T:
        """Do `work` on rank 0 only; all ranks wait, and return its picklable value or end with its error."""
        value: Any = None
        with self.sync_errors():
            if self.is_rank0:
                value = work()
        return self.broadcast_object(value)  # type: ignore[no-any-return]

    def first_of_machine_first(self, work: Callable[[], _T]) -> _T:
        """Do `work` on one process per machine before the others, which then find what it has downloaded."""
        with self.sync_errors():
            value = work() if self.local_rank == 0 else None
        with self.sync_errors():
            return work() if value is None else value

    def all_reduce_max(self, *values: int) -> list[int]:
        """The maximum over the ranks of each integer."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.cpu_group)
        return [int(value) for value in tensor]

    def check(self, stop: StopRequest) -> None:
        """Stop on all ranks if one was asked to.

        Raises: StoppedError.
        """
        (number,) = self.all_reduce_max(stop.signal_number or 0)
        if number:
            raise StoppedError(number)

    def summed(self, sums: Tensor, ok: Tensor) -> tuple[Tensor, Tensor]:
        """`sums` (n,) float64 summed over the ranks, and whether all are `ok` (bool); without a device synchronisation."""
        if self.world_size == 1:
            return sums, ok
        together = torch.cat([sums, (~ok).to(sums.dtype).view(1)])
        dist.all_reduce(together, group=self.device_group)
        return together[:-1], together[-1] == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """This rank's contiguous share of `items`; in rank order the shares are all of them."""
        first, last = (len(items) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return items[first:last]

    def joined(self, parts: list[Tensor]) -> Tensor:
        """The rows of all ranks, in rank order, from each rank's parts (n, K); with several ranks on the CPU."""
        if self.world_size == 1:
            return torch.cat(parts)
        everywhere = self.all_gather_object([part.cpu().numpy() for part in parts])
        return torch.from_numpy(np.concatenate([part for parts in everywhere for part in parts]))

    def device(self, choose: Callable[[], str]) -> str:
        """The device that rank 0 chooses; with several ranks, each selects one of its machine's devices.

        Raises: UserError if this machine does not have the device, or not one per rank.
        """
        device = self.run_on_rank0(choose)
        with self.sync_errors():
            choose_device(device=device)
            if self.world_size > 1:
                take_device(device, self.local_rank, self.local_world_size)
        return device

    def on(self, policy: DevicePolicy) -> "DistContext":
        """The same ranks with a process group for their devices."""
        if self.world_size == 1 or self.device_group is not None or policy.device != "cuda":
            return self
        return replace(self, device_group=dist.new_group(backend="nccl"))


ALONE = DistContext()


@contextlib.contextmanager
def connected() -> Iterator[DistContext]:
    """Connect the ranks that torchrun's environment variables name; without them there is one rank.

    Raises: ElsewhereError if another rank is lost.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    rank, size, local_rank, local_size, restarts = (
        int(os.environ.get(name, "1" if "WORLD" in name else "0")) for name in names
    )
    context = DistContext(rank=rank, world_size=size, local_rank=local_rank, local_world_size=local_size, restarts=restarts)
    if size == 1:
        yield context
        return
    store, _, _ = next(rendezvous("env://"))
    store = PrefixStore(_name_of_start(store, rank, size), store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_LONGEST_WAIT)
    try:
        (restarts,) = context.all_reduce_max(restarts)  # each machine has its own count
        yield replace(context, restarts=restarts)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        message = f"rank {rank} lost another process of the job: {error}" if local_rank == 0 else ""
        raise ElsewhereError(1, message) from error
    except (UserError, StoppedError, ElsewhereError) as error:
        traceback.clear_frames(error.__traceback__)
        _disconnect()
        raise
    _disconnect()


def _disconnect() -> None:
    """End gloo's threads, which live as long as anything refers to a process group, as DDP does in a reference cycle.

    A thread that frees a tensor while the interpreter shuts down would abort the process.
    """
    gc.collect()
    dist.destroy_process_group()


def _name_of_start(store: Store, rank: int, size: int) -> str:
    """A unique name for this start of the job, chosen by rank 0, the same on all ranks.

    torchrun's store outlives a restart, and torch would read the addresses of an earlier start from it. So each rank asks for
    the name under a random key of its own, and rank 0 answers until all have heard it.
    """
    own = secrets.token_hex(8)
    if rank > 0:
        store.set(f"cctkit/asks/{rank}", own)
        store.wait([f"cctkit/answer/{own}"])
        name: str = store.get(f"cctkit/answer/{own}").decode()
        store.set(f"cctkit/heard/{name}/{rank}", "")
        return name
    waiting = set(range(1, size))
    while waiting:
        for other in sorted(waiting):
            if store.check([f"cctkit/heard/{own}/{other}"]):
                waiting.remove(other)
            elif store.check([f"cctkit/asks/{other}"]):
                store.set(f"cctkit/answer/{store.get(f'cctkit/asks/{other}').decode()}", own)
        time.sleep(_POLL_S)
    return own


def launch_of_job() -> list[Any] | None:
    """Identifies this launch of torchrun, including its restarts; None without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return [os.environ["TORCHELASTIC_RUN_ID"], platform.node(), os.getppid(), sys.argv[1:]]


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
