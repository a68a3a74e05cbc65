"""Report to listeners how far the jobs of a stage are.

The executor that runs the jobs raises events, without knowing the listeners.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kind of an event; from ``QUEUED`` to ``ENDED`` each job starts and finishes once."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    ENDED = "ended"


@dataclass(frozen=True)
class Event:
    """An event among the jobs of a stage, and how far they are by now."""

    kind: Kind
    """Jobs are queued at once; one is started when workers get it, and finished when its result is
    taken, in the jobs' order. They have ended when no more will come, even after a
    failure."""

    title: str
    """The work that the jobs do together, such as ``screen night-2026-03-01``."""

    total: int | None
    """The number of jobs; None where they are made one by one."""

    in_flight: int
    """The number of jobs that are started and not finished."""

    finished: int
    """The number of jobs that are finished."""

    @property
    def waiting(self) -> int | None:
        """Count the jobs that no worker has yet; None if the total is unknown."""
        return None if self.total is None else self.total - self.finished - self.in_flight


Listener = Callable[[Event], None]  # hears every event of some jobs, in order
