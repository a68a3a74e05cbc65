"""Set up a process that computes."""

import ctypes
from functools import cache

# glibc's names for what `mallopt` sets, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # bytes


@cache
def settle_worker() -> None:
    """Set this process up to run one piece of work at a time.

    One thread, so that features do not depend on how many cores a worker has.
    """
    import torch

    torch.set_num_threads(1)
    keep_freed_memory()


@cache
def settle_finder() -> None:
    """Set this process up to find cells in one field at a time, on one core."""
    import cv2

    cv2.setNumThreads(1)
    keep_freed_memory()


@cache
def keep_freed_memory() -> None:
    """Keep the memory that this process frees, for it needs as much again in a moment.

    The output of every layer is megabytes. glibc gives such a block back to the kernel and asks for
    it again, zeroed, at the next image: more work than the layer itself, the more so as Dask tells
    its workers to give back everything. Where there is another allocator, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, KEPT)
