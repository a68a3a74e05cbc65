"""Start this machine's workers from a process that has imported the modules they need.

Imports take seconds, more than everything else that a worker does before its first shard. They
happen once for all workers, as soon as a command begins, and a killed worker is replaced at once.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker


def import_for_workers() -> None:
    """Begin to import the modules that workers need, once and without waiting."""
    # Threads of numerical libraries would not survive a fork; each worker gets a single one.
    resource_tracker.ensure_running()  # which lets all signals through once it has started
    # A terminal sends Ctrl-C to all its processes; only the command handles it, and ends them.
    with _environment(OMP_NUM_THREADS="1", PYTHONSAFEPATH="1"), _blocked(signal.SIGINT):
        multiprocessing.set_forkserver_preload(["flows.cluster.needed"])
        forkserver.ensure_running()


def wait_for_imports() -> None:
    """Wait until a process with the modules that workers need can be forked.

    Dask would wait too, but in a thread that Ctrl-C does not reach.
    """
    first = multiprocessing.get_context("forkserver").Process(target=len, args=((),))
    first.start()
    first.join()


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _blocked(sign: signal.Signals) -> Iterator[None]:
    """Hold a signal back in the block; a process that is started there never gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {sign})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
