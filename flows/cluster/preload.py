"""Start this machine's workers from a process that has imported the modules they need.

Imports take seconds, more than everything else that a worker does before its first shard. They
happen once for all workers, as soon as a command begins, and a killed worker is replaced at once.
"""

import multiprocessing
import os
import signal
from multiprocessing import forkserver, resource_tracker

# Threads of numerical libraries would not survive a fork; each worker gets a single one.
OF_WORKERS = {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}


def import_for_workers() -> None:
    """Begin to import the modules that workers need, once and without waiting."""
    resource_tracker.ensure_running()  # which lets all signals through once it has started
    before = dict(os.environ)
    # A terminal sends Ctrl-C to all its processes; only the command handles it, and ends them.
    allowed = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        os.environ.update(OF_WORKERS)
        multiprocessing.set_forkserver_preload(["flows.cluster.needed"])
        forkserver.ensure_running()
    finally:
        for name in OF_WORKERS:
            del os.environ[name]
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, allowed)


def wait_for_imports() -> None:
    """Wait for these imports; Ctrl-C does not reach the thread in which Dask would wait."""
    first = multiprocessing.get_context("forkserver").Process(target=len, args=((),))
    first.start()
    first.join()
