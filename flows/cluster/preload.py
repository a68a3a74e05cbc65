"""Start this machine's workers from a process that has imported what they need.

Imports take seconds, more than all else that a worker does before its first shard. They happen once
for all workers, as soon as a command begins, and a worker that was killed is back at once.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker


def import_for_workers() -> None:
    """Begin to import what workers need, once and without waiting for it."""
    # Threads of numerical libraries would not survive a fork, and one a worker is what they get.
    resource_tracker.ensure_running()  # which lets through all signals once it has begun
    # Ctrl-C is for the command, which ends them: a terminal sends it to all of its processes.
    with _environment(OMP_NUM_THREADS="1", PYTHONSAFEPATH="1"), _blocked(signal.SIGINT):
        multiprocessing.set_forkserver_preload(["flows.cluster.needed"])
        forkserver.ensure_running()


def wait_for_imports() -> None:
    """Wait until a process can be forked that has imported what workers need.

    Dask would wait for it, too, but in a thread that Ctrl-C does not reach.
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
