"""Read images ahead of the training steps in DataLoader workers, or in this process without workers."""

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cctkit.data.workers import start_worker
from cctkit.errors import ResourceError, UserError

Rows = np.ndarray[Any, np.dtype[np.int64]]

_CHUNK_BYTES = 32 * 2**20
_SHARED_BYTES = 32 * 2**20  # of all that is under way: a container's /dev/shm is often 64 MB
_PREFETCHED = 2  # by each worker


def images_at_once(image_bytes: int, workers: int) -> int:
    """How many images fit into the memory limit for images in flight."""
    allowed = _SHARED_BYTES // (workers * _PREFETCHED + 2) if workers else _CHUNK_BYTES
    return max(1, allowed // image_bytes)


def read_ahead(make: Callable[[Rows], Tensor], pieces: Sequence[Rows], *, workers: int, most: int) -> Generator[Tensor]:
    """Yield `make(piece)` for every piece, in order; one row per image. The first piece must be the longest.

    Without workers a piece is made on request; with workers it is made ahead, in parts of at most `most` rows.

    Raises: what `make` raises; ResourceError if a worker dies, for example because shared memory ran out.
    """
    if workers == 0 or len(pieces) == 0:
        yield from map(make, pieces)
        return
    number = -(-len(pieces[0]) // most)
    parts = _of_workers(_Parts(make=make, pieces=pieces, number=number), workers)
    with contextlib.closing(parts):
        for _ in range(len(pieces)):
            found = [part for part in islice(parts, number) if len(part)]
            yield found[0] if len(found) == 1 else torch.cat(found)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Parts(TorchDataset[Tensor | UserError]):
    """Every piece in `number` parts; some parts of a short piece are empty."""

    make: Callable[[Rows], Tensor]
    pieces: Sequence[Rows]
    number: int

    def __len__(self) -> int:
        return len(self.pieces) * self.number

    def __getitem__(self, i: int) -> Tensor | UserError:
        rows = np.array_split(self.pieces[i // self.number], self.number)[i % self.number]
        if len(rows) == 0:
            return torch.empty(0, dtype=torch.uint8)
        try:
            # In shared memory already here, where a failure reaches the trainer: in the queue's thread it would be lost.
            return self.make(rows).share_memory_()  # type: ignore[no-untyped-call,no-any-return]
        except UserError as error:  # sent as it is: raised, torch would put a traceback into its words
            return error


def _of_workers(parts: _Parts, workers: int) -> Generator[Tensor]:
    context = "fork" if sys.platform == "linux" else None
    loader: DataLoader[Tensor | UserError] = DataLoader(
        parts,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCHED,
        worker_init_fn=partial(_start_worker, multiprocessing.get_context(context).Lock()),
        generator=torch.Generator(),  # its base seed would come from torch's default one
        multiprocessing_context=context,
    )
    iterator: Any = iter(loader)
    try:
        for found in iterator:
            if isinstance(found, UserError):
                raise found
            yield found
    except RuntimeError as error:
        if not _worker_died(str(error)):
            raise
        raise ResourceError(
            "a loader worker died, most likely because shared memory ran out",
            "/dev/shm",
            "use --workers 0, or raise the limit (--shm-size)",
        ) from error
    finally:
        iterator._shutdown_workers()  # left to the garbage collector, as with an error, it waits 5 s for each worker


def _worker_died(message: str) -> bool:
    """Whether torch's message reports a dead worker or missing shared memory, rather than a bug in a worker."""
    return message.startswith("DataLoader worker (pid") or "shared memory" in message or "No space left" in message


def _start_worker(large: Any, _index: int) -> None:
    start_worker(large)
