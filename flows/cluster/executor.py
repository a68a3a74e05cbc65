"""Run jobs on a cluster, in order, whatever happens to the workers.

Shards are Dask futures on a client that the flow owns. A bounded number is in flight, so that the
memory of scheduler and coordinator does not grow with the number of images.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from flows.cluster.client import Client, Here
from flows.cluster.trials import NO_SCHEDULER, ClusterError, Trials, is_death, lost
from flows.jobs.libraries import installed, run_if_same
from flows.jobs.quarantine import Job
from flows.monitoring import console

if TYPE_CHECKING:
    from distributed import Future

Work = TypeVar("Work")
Result = TypeVar("Result")

THREAD = 4  # jobs in flight for each thread of a worker
PATIENCE = 30.0  # seconds between checks for any remaining worker
GO_ON = "Finished work is kept: run the same command again to resume"
COUNTED_EVERY = 5.0  # seconds between counts of the workers


@dataclass
class _Flight(Generic[Work]):
    job: Work
    future: "Future[Any]"
    trials: Trials = field(default_factory=Trials)
    taken: list[Any] = field(default_factory=list)  # its result, if it was taken with others


def run_jobs(
    client: Client,
    work: Callable[[Work], Result],
    jobs: Iterable[Work],
    *,
    title: str,
    again: Callable[[Work], Work] = lambda job: job,
) -> Iterator[Result]:
    """Run jobs on the cluster and yield their results in the jobs' order, with a progress bar.

    At most four jobs per worker thread are in flight. They are handed over, and their results
    taken, in batches, because each message costs milliseconds; a result is released as it is taken.
    If a job's worker dies, the job runs elsewhere; if that worker dies too, it runs once more with
    no other job, so that it neither kills others nor is blamed for them. If it dies alone, the rows
    of a `Job` are probed, and a last run quarantines those that kill. Passing storage errors are
    retried, by the job that ``again`` makes. A worker with other versions than here does no job.
    ClusterError if a job has failed for good, or the cluster is lost.
    """
    total = len(jobs) if isinstance(jobs, Sized) else None
    results = _results(client, work, jobs, title, again)
    return console.counted(results, title, total, lines=isinstance(client, Here))


def _results(
    client: Client, work: Callable[[Work], Result], jobs: Iterable[Work], title: str,
    again: Callable[[Work], Work],
) -> Iterator[Result]:  # fmt: skip
    waiting, window = iter(jobs), _Window(client)
    in_flight: deque[_Flight[Work]] = deque()

    def start() -> None:
        some = list(islice(waiting, window.room(len(in_flight))))
        in_flight.extend(map(_Flight, some, _submit(client, work, some)))

    try:
        start()
        while in_flight:
            flight = in_flight.popleft()
            try:
                result = _settle(client, work, flight, in_flight, again)
                start()
            except ClusterError as error:
                shard, name = getattr(flight.job, "shard", None), type(flight.job).__name__
                what = name if shard is None else f"rows {shard.start} to {shard.stop}"
                raise ClusterError(f"{title}, {what}: {error}. {GO_ON}") from error
            yield result
    finally:
        if in_flight:
            with suppress(*lost()):
                client.cancel([flight.future for flight in in_flight], force=True)


def _settle(
    client: Client,
    work: Callable[[Work], Result],
    flight: _Flight[Work],
    beside: Iterable[_Flight[Work]],
    again: Callable[[Work], Work],
) -> Result:
    """Wait for a job's result, and retry the job if that may help."""
    if not flight.taken:
        _take_finished(client, [flight, *beside])
    trials = flight.trials
    while True:
        try:
            result: Result = flight.taken.pop() if flight.taken else _result(client, flight.future)
        except Exception as error:
            time.sleep(trials.pause_after(error))
            if trials.suspected and is_death(error):
                flight.job = _without_killers(client, flight.job)
        else:
            flight.future.release()
            return result
        if trials.alone:
            with suppress(*lost()):
                for other in beside:
                    other.future.exception()  # waits until it is done, and keeps its result
        flight.job = again(flight.job)
        (flight.future,) = _submit(client, work, [flight.job])


def _take_finished(client: Client, flights: Iterable[_Flight[Work]]) -> None:
    there = [each for each in flights if not each.taken and each.future.status == "finished"]
    if len(there) > 1:
        # A result may be lost with its worker; it is waited for when its turn comes.
        futures = [flight.future for flight in there]
        with suppress(Exception):
            results = client.sync(
                partial(client.gather, futures, asynchronous=True), callback_timeout=PATIENCE
            )
            for flight, result in zip(there, results, strict=True):
                flight.taken.append(result)
                flight.future.release()  # or its worker's death would have it computed again


def _without_killers(client: Client, job: Work) -> Work:
    if not isinstance(job, Job):
        raise ClusterError("it kills every worker that takes it")
    killers = [row for row in range(job.rows()) if kills_workers(client, job.probe, row)]
    return job.quarantine(killers)


def kills_workers(client: Client, work: Callable[..., None], *arguments: object) -> bool:
    """Test whether a piece of work kills two workers in a row while it runs alone."""
    for _ in range(2):
        future = client.submit(work, *arguments, pure=False)
        try:
            _result(client, future)
        except lost() as error:
            raise ClusterError(NO_SCHEDULER) from error
        except Exception as error:  # it may fail, as long as its worker lives
            if is_death(error):
                continue
        return False
    return True


class _Window:
    """The limit of jobs in flight, `THREAD` per thread of the present workers."""

    def __init__(self, client: Client) -> None:
        self._client, self._counted, self._size = client, -math.inf, 0

    def room(self, in_flight: int) -> int:
        """Count the jobs to hand over now: none until there is room for many."""
        size = self.size()
        room = size - in_flight
        return 0 if in_flight and room * THREAD < size else room

    def size(self) -> int:
        """Return the limit, computed again after `COUNTED_EVERY` seconds."""
        if time.monotonic() - self._counted > COUNTED_EVERY:
            try:
                threads: dict[str, int] = self._client.nthreads()
            except lost() as error:
                raise ClusterError(NO_SCHEDULER) from error
            self._size = THREAD * max(1, sum(threads.values()))
            self._counted = time.monotonic()
        return self._size


def _submit(
    client: Client, work: Callable[[Work], Result], jobs: Sequence[Work]
) -> "list[Future[Any]]":
    if not jobs:
        return []
    name = getattr(work, "__name__", "job")  # on Dask's dashboard
    keys = [f"{name}-{uuid4().hex}" for _ in jobs]
    try:
        # As "pure" jobs, Dask would hash all that they hold.
        return client.map(partial(run_if_same, installed(), work), jobs, key=keys, pure=False)
    except lost() as error:
        raise ClusterError(NO_SCHEDULER) from error


def _result(client: Client, future: "Future[Any]") -> Any:
    """Wait for a future's result; ClusterError if there was no worker for a while."""
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
