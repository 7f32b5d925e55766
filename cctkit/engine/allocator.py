"""The C allocator told to keep its memory: to be called at a program's start, before torch is imported.

glibc maps and unmaps every large tensor anew, and the page faults cost more than half of a step of `cct_6_3x1`: adding
a number to a 134 MB tensor took 31 ms, and 10 ms with the memory kept.
"""

import ctypes
import os
import sys

# malloc.h: the numbers of mallopt's parameters.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_memory() -> None:
    """Serve every allocation from the heap, never shrink it, and ask for huge pages. Linux with glibc only; else nothing."""
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch when it starts
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 64 * 2**20)
