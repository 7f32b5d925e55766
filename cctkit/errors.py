"""Exceptions that a user can cause, one class per exit code.

`cli/app.py` is the only printer: it prints `what`, `where` and `remedy` on at most three lines of stderr and exits
with `exit_code`. A library user catches `UserError`, which is a `ValueError`.
"""

import sys
from typing import Any

# Of the RuntimeErrors for which torch has no type: c10/core/impl/alloc_cpu.cpp (Linux and macOS, Windows), a CUDA call that
# is not the allocator's, aten/src/ATen/mps/MPSAllocator.mm.
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
)


class UserError(ValueError):
    """Bad usage or bad input. Exit code 2.

    what: what is wrong, what was expected and what was got.
    where: the file, flag or key.
    remedy: how to fix it.
    """

    exit_code = 2

    def __init__(self, what: str, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__("; ".join(part for part in (what, where, remedy) if part))
        self.what = what
        self.where = where
        self.remedy = remedy


class DamagedError(UserError):
    """A file is damaged: its checksum is wrong. Exit code 2.

    dropped: the file was in the cache and was removed, so that it is packed again.
    """

    def __init__(self, what: str, where: str | None = None, remedy: str | None = None, *, dropped: bool = False) -> None:
        super().__init__(what, where, remedy)
        self.dropped = dropped


class DivergedError(UserError):
    """Training diverged: the loss or gradient is not finite, or exploded. Exit code 3."""

    exit_code = 3


class ResourceError(UserError):
    """Memory or disk ran out. Exit code 4."""

    exit_code = 4


class DiskError(ResourceError):
    """The disk is full, or failing. Exit code 4."""


class InUseError(UserError):
    """Another running process holds the run directory. Exit code 5."""

    exit_code = 5


class ElsewhereError(Exception):
    """Another process of the job failed with this exit code, and prints why.

    message: what this process knows, if anything.
    """

    def __init__(self, exit_code: int, message: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoppedError(Exception):
    """SIGINT, SIGTERM or SIGHUP stopped the program after saving. Exit code 128 + signal."""

    def __init__(self, signal_number: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        return 128 + self.signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the computer or a device ran out, rather than another error that mentions memory."""
    torch: Any = sys.modules.get("torch")  # not imported: cannot have raised
    if isinstance(error, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
