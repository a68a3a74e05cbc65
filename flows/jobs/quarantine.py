"""Find the rows of a job that kill its worker, and continue without them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, TypeVar, runtime_checkable


@runtime_checkable
class Job(Protocol):
    """A unit of work on rows, counted from 0; some may kill their worker."""

    def rows(self) -> int:
        """Count the rows that can be probed."""

    def probe(self, row: int) -> None:
        """Process one row as the job does, and keep nothing."""

    def quarantine(self, rows: list[int]) -> Self:
        """Return the job to run next, which skips these rows and says why."""


@dataclass(frozen=True)
class Sparing:
    """A job that can leave out those of its rows that kill workers."""

    killers: frozenset[int] = field(default=frozenset(), kw_only=True)

    def quarantine(self, rows: list[int]) -> Self:
        """Return the job without these rows."""
        return replace(self, killers=frozenset(rows))


AnyJob = TypeVar("AnyJob", bound=Job)


def quarantine(job: AnyJob, kills: Callable[[AnyJob, int], bool]) -> AnyJob:
    """Probe the rows of a job one by one, and quarantine those that kill workers."""
    return job.quarantine([row for row in range(job.rows()) if kills(job, row)])


def probe(job: Job, row: int) -> None:
    """Probe one row of a job, on a worker."""
    job.probe(row)
