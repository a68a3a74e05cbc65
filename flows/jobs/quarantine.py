"""Find the rows of a job that kill its worker, and continue without them."""

from dataclasses import dataclass, field, replace
from typing import Protocol, Self, runtime_checkable


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
