"""Set up a process: a worker's, which keeps the memory that it frees, or the coordinator's."""

import ctypes
from functools import cache

import pyarrow as pa

# Parameters of glibc's `mallopt`, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # bytes
RETURNED = 2**17  # bytes of a block that goes back as soon as it is freed


@cache
def settle_worker() -> None:
    """Set this process up to run one piece of work at a time.

    It uses one thread, so that features do not depend on a worker's number of cores.
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
    """Keep the memory that this process frees, because it soon needs as much again.

    The output of every layer is megabytes. glibc returns such a block to the kernel and gets it
    back, zeroed, for the next image: more work than the layer itself, especially as Dask makes its
    workers return everything. With another allocator, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, KEPT)


def return_freed_memory() -> None:
    """Return the memory that this process has freed, because it may not need it again.

    Tables share it with everything else: Arrow's own allocator keeps most of a night's.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        # Otherwise the limit rises to the largest block that was freed, and holes stay below it.
        library.mallopt(M_MMAP_THRESHOLD, RETURNED)
        library.malloc_trim(0)
