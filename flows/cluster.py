"""The compute cluster behind one small interface: a Dask client, and a loop over work.

Shards are Dask futures on a client that the flow owns. A bounded number is in flight, so that
neither the scheduler nor the coordinator grows with the number of images.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from distributed import Client, LocalCluster

from flows.progress import progress_bar
from flows.settings import Settings

Job = TypeVar("Job")
Result = TypeVar("Result")


class ClusterError(Exception):
    """The cluster cannot be reached, or a piece of work has failed on it."""


@contextmanager
def open_client(settings: Settings) -> Iterator[Client]:
    """A client of the cluster that the settings name; a local cluster ends with the block."""
    if settings.cluster == "scheduler":
        if settings.scheduler is None:
            raise ClusterError("cluster = scheduler needs an address: give --scheduler tcp://...")
        try:
            client = Client(settings.scheduler, set_as_default=False, timeout=10)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(f"no Dask scheduler at {settings.scheduler}: {error}") from None
        with client:
            yield client
        return
    # One torch thread a process: features do not depend on how many processes there are.
    with (
        LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def run_in_order(
    client: Client, work: Callable[[Job], Result], jobs: Iterable[Job], *, title: str
) -> Iterator[Result]:
    """Run jobs on the cluster and yield their results in the jobs' order.

    Four jobs a worker thread are in flight at most; a result is released as soon as it is taken.

    Raises:
        ClusterError: a job has failed; the message names it.
    """
    waiting = iter(jobs)
    total = len(jobs) if isinstance(jobs, Sized) else None
    window = 4 * max(1, sum(client.nthreads().values()))
    in_flight = deque(
        (job, client.submit(work, job, pure=False)) for job in islice(waiting, window)
    )
    try:
        with progress_bar() as progress:
            bar = progress.add_task(title, total=total)
            while in_flight:
                job, future = in_flight.popleft()
                try:
                    result = future.result()
                except Exception as error:
                    raise ClusterError(
                        f"{title} failed at {_describe(job)}: {type(error).__name__}: {error}. "
                        "What is complete is kept: run the same command again to go on"
                    ) from error
                future.release()
                for job in islice(waiting, 1):
                    in_flight.append((job, client.submit(work, job, pure=False)))
                progress.advance(bar)
                yield result
    finally:
        client.cancel([future for _, future in in_flight], force=True)


def _describe(job: object) -> str:
    shard = getattr(job, "shard", None)
    return f"rows {shard.start} to {shard.stop}" if shard is not None else type(job).__name__
