"""Set up a process, a worker's or a command's: its threads and its memory."""

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.models.classifiers import ModelCard
    from storage.store import Store
    from tasks.network.inference import Inference

# Parameters of glibc's `mallopt`, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # bytes
_LOADING = threading.Lock()  # or two threads would both load the same network
RETURNED = 2**17  # bytes of a block that goes back as soon as it is freed


def settle_worker() -> None:
    """Set this process up to read images and run a network on one of them at a time.

    PyTorch uses one thread, so that features do not depend on a worker's number of cores. Most work
    does without it; whatever imports it settles again.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    keep_freed_memory()


def network_of(store: "Store", model: "ModelCard") -> "Inference":
    """Load the network of a model, and settle this process again."""
    # The coordinator also imports this module, and should not wait for imports of workers.
    from flows.jobs.networks import load_inference

    with _LOADING:
        network = load_inference(store, model)
    settle_worker()
    return network


@cache
def settle_finder() -> None:
    """Set this process up to find cells in one field at a time, on one core."""
    import cv2

    cv2.setNumThreads(1)
    keep_freed_memory()


@cache
def keep_freed_memory() -> None:
    """Keep the memory that this process frees, because it soon needs as much again.

    A photograph, and the output of every layer that is trained, are megabytes. glibc returns such a
    block to the kernel and gets it back, zeroed, for the next one, especially as Dask makes its
    workers return everything: to find the cells of a photograph takes twice as long. With another
    allocator, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, KEPT)


def return_freed_memory() -> None:
    """Return the memory that this process has freed, because it may not need it again.

    Tables share it with everything else: Arrow's own allocator keeps most of a night's.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        # Otherwise the limit rises to the largest block that was freed, and holes stay below it.
        library.mallopt(M_MMAP_THRESHOLD, RETURNED)
        library.malloc_trim(0)


@contextmanager
def imported_once() -> Iterator[None]:
    """Disable garbage collection, a fifth of an import's time, then freeze the imported objects.

    Forked workers do not scan frozen objects either, so they share their memory.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave_pandas_out() -> None:
    """Keep pyarrow from importing pandas where it is installed, which takes half a second.

    pyarrow tries to import it once, before it converts the first values from Python. Whoever asks
    for a data frame still gets one.
    """
    import pyarrow as pa

    with without_pandas():
        pa.array([0])


@contextmanager
def without_pandas() -> Iterator[None]:
    """Refuse to import pandas in the block, as if it were not installed."""
    sys.meta_path.insert(0, _NoPandas)
    try:
        yield
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """A finder of modules that finds no pandas, and leaves all others to the next finder.

    pyarrow, which Cython has compiled, takes a None in `sys.modules` for the module.
    """

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)
