"""Running jobs on a cluster, in order, whatever happens to the workers.

Shards are Dask futures on a client that the flow owns. A bounded number is in flight, so that
neither the scheduler nor the coordinator grows with the number of images.
"""

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

from dask.utils import funcname
from distributed import Client, Future, KilledWorker
from distributed.comm.core import CommClosedError

from flows.cluster.client import SAME_VERSIONS
from flows.cluster.errors import ClusterError
from flows.jobs.versions import VersionsDifferError, installed, run_if_same
from flows.monitoring.console import progress_bar
from flows.monitoring.telemetry import queue_is

Job = TypeVar("Job")
Result = TypeVar("Result")

DEATHS_ALONE = 3  # the third run of a job whose workers die has the cluster to itself
BACKOFF = (1.0, 4.0, 16.0)  # seconds before a storage error is tried again
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
LOST = (CancelledError, CommClosedError)
PATIENCE = 30.0  # seconds between looks at whether any worker is left
GO_ON = "What is complete is kept: run the same command again to go on"
LOOK = 5.0  # seconds between looks at how many workers there are by now


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
    No job is done where versions differ from those here, whenever the worker has joined.

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
    window, looked = _window(client), time.monotonic()
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
                if time.monotonic() - looked > LOOK:  # workers come and go
                    window, looked = _window(client), time.monotonic()
                room = max(0, window - len(in_flight))
                in_flight.extend((job, _submit(client, work, job)) for job in islice(waiting, room))
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
        except VersionsDifferError as error:
            raise ClusterError(f"{error}: {SAME_VERSIONS}") from error
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


def _window(client: Client) -> int:
    try:
        threads: dict[str, int] = client.nthreads()
    except LOST as error:
        raise ClusterError("the connection to the Dask scheduler is lost") from error
    return 4 * max(1, sum(threads.values()))


def _submit(client: Client, work: Callable[[Job], Result], job: Job) -> Future[Any]:
    key = f"{funcname(work)}-{uuid4().hex}"  # what Dask's dashboard calls the job
    try:
        return client.submit(run_if_same, installed(), work, job, key=key)
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
