"""The compute cluster behind one small interface: a Dask client, and a loop over work.

Shards are Dask futures on a client that the flow owns. A bounded number is in flight, so that
neither the scheduler nor the coordinator grows with the number of images.
"""

import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dask
from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.comm.core import CommClosedError

from flows.progress import progress_bar
from flows.settings import Settings
from flows.telemetry import queue_is
from flows.workers import import_for_workers

Job = TypeVar("Job")
Result = TypeVar("Result")

DEATHS_ALONE = 3  # the third run of a job whose workers die has the cluster to itself
BACKOFF = (1.0, 4.0, 16.0)  # seconds before a storage error is tried again
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
LOST = (CancelledError, CommClosedError)
PATIENCE = 30.0  # seconds between looks at whether any worker is left
GO_ON = "What is complete is kept: run the same command again to go on"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class ClusterError(Exception):
    """The cluster cannot be reached, or a piece of work has failed on it."""


@contextmanager
def open_client(settings: Settings) -> Iterator[Client]:
    """A client of the cluster that the settings name; a local cluster ends with the block."""
    if settings.cluster == "scheduler":
        if settings.scheduler is None:
            raise ClusterError("cluster = scheduler needs an address: give --scheduler tls://...")
        _refuse_unencrypted(settings)
        try:
            client = Client(settings.scheduler, set_as_default=False, timeout=10)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(f"no Dask scheduler at {settings.scheduler}: {error}") from None
        with client:
            yield client
        return
    import_for_workers()
    with (
        dask.config.set(
            {
                # A job is handed back when its worker dies, rather than tried again unasked.
                "distributed.scheduler.allowed-failures": 0,
                "distributed.worker.multiprocessing-method": "forkserver",
            }
        ),
        LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            env=dict(os.environ),  # what is set now, not when the workers' parent was started
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _refuse_unencrypted(settings: Settings) -> None:
    """Whoever reaches a Dask scheduler may run any code on its workers."""
    address = urlsplit(settings.scheduler or "")
    if address.scheme != "tls" and address.hostname not in LOOPBACK and not settings.unencrypted:
        raise ClusterError(
            f"{settings.scheduler} is not encrypted, and whoever reaches or overhears a Dask "
            "scheduler can run any code on its workers: use a tls:// address, or give "
            "--unencrypted if that network is yours alone"
        )


def run_in_order(
    client: Client,
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    title: str,
    again: Callable[[Job], Job] = lambda job: job,
    isolate: Callable[[Client, Job], None] | None = None,
) -> Iterator[Result]:
    """Run jobs on the cluster and yield their results in the jobs' order.

    Four jobs a worker thread are in flight at most; a result is released as soon as it is taken.
    A job whose worker dies is run elsewhere, and if that one dies too, once more with nothing
    beside it, so that it neither takes others along nor is blamed for them. If it dies alone,
    ``isolate`` may take the cause out of it before a last run. Passing storage errors are retried.

    Args:
        client: of the cluster.
        work: what to do with a job.
        jobs: in order.
        title: of the progress bar and of errors.
        again: makes the job that is run next after one that did not end well.
        isolate: finds what in a job kills workers, and sees to it that the next run leaves it out.

    Raises:
        ClusterError: a job has failed for good, or the cluster is lost; what to do stands in it.
    """
    waiting = iter(jobs)
    left = len(jobs) if isinstance(jobs, Sized) else None
    window = 4 * max(1, sum(client.nthreads().values()))
    in_flight = deque((job, _submit(client, work, job)) for job in islice(waiting, window))
    try:
        with progress_bar() as progress:
            bar = progress.add_task(title, total=left)
            while in_flight:
                if left is not None:
                    queue_is(in_flight=len(in_flight), waiting=left - len(in_flight))
                job, future = in_flight.popleft()
                try:
                    result = _settle(client, work, job, future, in_flight, again, isolate)
                except ClusterError as error:
                    raise ClusterError(f"{title}, {_describe(job)}: {error}. {GO_ON}") from error
                in_flight.extend((job, _submit(client, work, job)) for job in islice(waiting, 1))
                progress.advance(bar)
                left = left - 1 if left is not None else None
                yield result
    finally:
        queue_is(in_flight=0, waiting=0)
        with suppress(*LOST):
            client.cancel([future for _, future in in_flight], force=True)


def _settle(
    client: Client,
    work: Callable[[Job], Result],
    job: Job,
    future: Future[Any],
    in_flight: Iterable[tuple[Job, Future[Any]]],
    again: Callable[[Job], Job],
    isolate: Callable[[Client, Job], None] | None,
) -> Result:
    """The result of a job, however often it takes."""
    deaths = errors = 0
    while True:
        try:
            result: Result = _result(client, future)
        except KilledWorker as error:
            deaths += 1
            if deaths == DEATHS_ALONE:
                if isolate is None:
                    raise ClusterError("it kills every worker that takes it") from error
                isolate(client, job)
            elif deaths > DEATHS_ALONE:
                raise ClusterError(
                    "it kills every worker that takes it, though none of its images does so alone: "
                    "memory? Give workers more of it, or --shard-rows fewer images"
                ) from error
        except LOST as error:
            raise ClusterError("the connection to the Dask scheduler is lost") from error
        except OSError as error:
            errors += 1
            if errors > len(BACKOFF) or error.errno in LASTING:
                raise ClusterError(f"{type(error).__name__}: {error}") from error
            time.sleep(BACKOFF[errors - 1])
        except ClusterError:
            raise
        except Exception as error:
            raise ClusterError(f"{type(error).__name__}: {error}") from error
        else:
            future.release()
            return result
        if deaths >= DEATHS_ALONE - 1:
            with suppress(*LOST):
                for _, other in in_flight:
                    other.exception()  # waits until it is done, and takes nothing from it
        job = again(job)
        future = _submit(client, work, job)


def kills_workers(client: Client, work: Callable[..., None], *arguments: object) -> bool:
    """Whether a piece of work kills two workers in a row, with nothing beside it."""
    for _ in range(2):
        future = client.submit(work, *arguments, pure=False)
        try:
            _result(client, future)
        except KilledWorker:
            continue
        except LOST as error:
            raise ClusterError("the connection to the Dask scheduler is lost") from error
        except Exception:  # it may fail as it likes, as long as its worker lives
            return False
        return False
    return True


def _submit(client: Client, work: Callable[[Job], Result], job: Job) -> Future[Any]:
    try:
        return client.submit(work, job, pure=False)
    except LOST as error:
        raise ClusterError("the connection to the Dask scheduler is lost") from error


def _result(client: Client, future: Future[Any]) -> Any:
    """A future's result; ClusterError when there has been no worker to run it for a while."""
    without_workers = 0
    while True:
        try:
            return future.result(timeout=PATIENCE)
        except TimeoutError:
            if future.done():
                raise
            without_workers = 0 if client.nthreads() else without_workers + 1
            if without_workers > 3:
                raise ClusterError("the cluster has no workers left") from None


def _describe(job: object) -> str:
    shard = getattr(job, "shard", None)
    return f"rows {shard.start} to {shard.stop}" if shard is not None else type(job).__name__
