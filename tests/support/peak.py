"""How much memory a piece of work takes at its peak, beyond what there was before."""

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

Prepare = Callable[..., Callable[[], object]]


def extra_peak(prepare: Prepare, *arguments: object) -> float:
    """MiB that ``prepare(*arguments)()`` takes in a new process, what `prepare` made left out.

    NumPy's, torch's and the libraries' memory alike; Linux alone can tell.
    """
    # Imported once, by the process that the new ones are forked from.
    multiprocessing.set_forkserver_preload([prepare.__module__])
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_extra_peak, prepare, *arguments).result()


def _extra_peak(prepare: Prepare, *arguments: object) -> float:
    work = prepare(*arguments)
    gc.collect()
    before = start_peak()
    kept = work()
    after = peak()
    del kept
    return after - before


def start_peak() -> float:
    """Forget this process' peak, and return what it takes now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """The most that this process has taken since, in MiB."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
