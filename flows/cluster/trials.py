"""Decide whether and when a failed job is retried.

| what ended the job    | how often | before it is run again                        |
|-----------------------|-----------|-----------------------------------------------|
| its worker died       | once      | nothing                                       |
|                       | twice     | it has to run alone                           |
|                       | 3 times   | that, and what kills workers is taken out     |
| a passing OSError     | 1 to 3    | a pause, of 1, 4 and 16 seconds               |

Any other event, or any of these more often, ends the work.
"""

import errno
from concurrent.futures import CancelledError
from dataclasses import dataclass

from flows.jobs.libraries import VersionsDifferError
from storage.store import StoreError

ALONE, SUSPECTED = 2, 3  # numbers of killed workers
BACKOFF = (1.0, 4.0, 16.0)  # seconds before a storage error is tried again
LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
NO_SCHEDULER = "the connection to the Dask scheduler is lost"
SAME_VERSIONS = "install the same versions on the coordinator, the scheduler and all workers"


class ClusterError(Exception):
    """The cluster cannot be reached, or a piece of work has failed on it."""


@dataclass
class Trials:
    """A job's numbers of killed workers and storage errors so far."""

    deaths: int = 0
    errors: int = 0

    @property
    def alone(self) -> bool:
        """Return whether the job must run alone, so that jobs cannot kill each other."""
        return self.deaths >= ALONE

    @property
    def suspected(self) -> bool:
        """Return whether the job has just killed a worker while it ran alone."""
        return self.deaths == SUSPECTED

    def pause_after(self, error: Exception) -> float:
        """Count an error; return seconds to wait, or raise ClusterError if a retry is in vain."""
        if is_death(error) and self.deaths < SUSPECTED:
            self.deaths += 1
            return 0.0
        # A lost scheduler is also an OSError.
        is_storage = isinstance(error, OSError) and not isinstance(error, lost())
        is_passing = is_storage and getattr(error, "errno", None) not in LASTING
        if is_passing and self.errors < len(BACKOFF):
            self.errors += 1
            return BACKOFF[self.errors - 1]
        raise ClusterError(_why_in_vain(error)) from error


def lost() -> tuple[type[Exception], ...]:
    """Return the errors that a lost scheduler raises."""
    from distributed.comm.core import CommClosedError  # not before there is an error

    return CancelledError, CommClosedError


def is_death(error: Exception) -> bool:
    """Return whether an error is Dask's for a job whose worker died."""
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)


def _why_in_vain(error: Exception) -> str:
    if is_death(error):
        return (
            "it kills every worker that takes it, though none of its images does so alone: "
            "memory? Give workers more of it, or set shard_rows to fewer images"
        )
    if isinstance(error, lost()):
        return NO_SCHEDULER
    if isinstance(error, VersionsDifferError):
        return f"{error}: {SAME_VERSIONS}"
    if isinstance(error, ClusterError | StoreError):
        return str(error)
    return f"{type(error).__name__}: {error}"
