"""Run jobs in this process one after another, where no cluster is wanted."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any


class Here:
    """Stand in for a Dask client in `flows.cluster.executor`.

    A job runs when its result is asked for, so that an interrupt ends it at once.
    """

    def map(self, work: Callable[[Any], Any], jobs: Iterable[Any], **_: Any) -> "list[_Later]":
        """Keep jobs."""
        return [_Later(partial(work, job)) for job in jobs]

    def nthreads(self) -> dict[str, int]:
        """Count this process as one worker."""
        return {"here": 1}

    def cancel(self, jobs: Iterable["_Later"], *, force: bool) -> None:
        """Do nothing, because a job whose result nobody asks for never runs."""


@dataclass(frozen=True)
class _Later:
    """Stand in for a Dask future."""

    _run: Callable[[], Any]
    status = "pending"  # until its result is asked for

    def result(self, timeout: float) -> Any:
        return self._run()

    def done(self) -> bool:
        return True  # an error is always the job's own

    def release(self) -> None:
        """Do nothing: whoever has taken the result keeps it."""
