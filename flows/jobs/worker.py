"""Set up a process, a worker's or a command's: its threads and its memory."""

import ctypes
import gc
import importlib
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
    """Set this process up for one image at a time, on one thread, so that features do not vary."""
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

    glibc returns the megabytes of a photograph or layer to the kernel and gets them back, zeroed,
    so finding its cells takes twice as long. With another allocator, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, KEPT)


def return_freed_memory() -> None:
    """Return the memory that this process has freed; Arrow's allocator keeps most of a night's."""
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        # Otherwise the limit rises to the largest block that was freed, and holes stay below it.
        library.mallopt(M_MMAP_THRESHOLD, RETURNED)
        library.malloc_trim(0)


@contextmanager
def imported_once() -> Iterator[None]:
    """Make the imports of the block fast, and freeze the imported objects.

    Garbage collection takes a fifth of an import's time. pyarrow imports pandas where that is
    installed, a third of a second, before it converts the first value: that happens here, and it
    finds none. Whoever asks for a data frame still gets one.
    """
    gc.disable()
    try:
        sys.meta_path.insert(0, _NoPandas)
        importlib.import_module("pyarrow").array([0])
        sys.meta_path.remove(_NoPandas)
        yield
    finally:
        gc.freeze()
        gc.enable()


class _NoPandas:
    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)
