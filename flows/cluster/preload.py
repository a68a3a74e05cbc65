"""Start this machine's workers from a process that has imported what they need.

Imports take seconds, more than all else that a worker does before its first shard. They happen once
for all workers, as soon as a command begins, and a worker that was killed is back at once.
"""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver


def import_for_workers() -> None:
    """Begin to import what workers need, once and without waiting for it."""
    # Threads of numerical libraries would not survive a fork, and one a worker is what they get.
    with _environment(OMP_NUM_THREADS="1", PYTHONSAFEPATH="1"):
        multiprocessing.set_forkserver_preload(["flows.cluster.needed"])
        forkserver.ensure_running()


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
