"""Call a slide or a patient positive, negative, indeterminate or unreadable, with reasons."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TypeVar

from tasks.counting.interpretation import (
    DENSE,
    KnownRates,
    blank_count,
    cells_needed,
    corrected,
    detection_limit,
    interval,
    upper_bound,
)

Key = TypeVar("Key")
Found = TypeVar("Found")


# Red cells that a positive call needs: two called cells of seven are not a parasitaemia of 28%, and
# the error rates were counted on slides of more cells.
LEAST_CELLS = 30


class Call(StrEnum):
    """The call of a slide or a patient."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    INDETERMINATE = "indeterminate"
    UNREADABLE = "unreadable"


class CountedBy(StrEnum):
    """The threshold of a corrected count."""

    COUNTING = "counting"
    DENSE = "dense"


class CallReason(StrEnum):
    """A reason why a call is neither positive nor negative; a slide's reasons may be added."""

    NO_CELLS = "no red cells"
    RATES_UNKNOWN = "error rates unknown"
    TOO_FEW = "too few cells"
    RATES_TOO_HIGH = "error rates too high"


@dataclass(frozen=True)
class Answer:
    """The meaning of a count: shares in [0, 1], None if the error rates do not apply.

    ``by`` names the threshold whose count was corrected; ``limit_of_detection`` is also None if no
    parasitaemia is certain to be seen, and ``needed`` if no number of cells is enough for a
    negative call; ``none_above`` is the one-sided 95% bound that a negative call states.
    """

    call: Call
    reasons: tuple[str, ...]
    parasitaemia: float | None = None
    low: float | None = None
    high: float | None = None
    limit_of_blank: float | None = None
    limit_of_detection: float | None = None
    none_above: float | None = None
    needed: int | None = None
    by: str | None = None


class Answers:
    """Interpret counts of parasites; equal counts are computed once.

    Args:
        rates: error rates of both thresholds; None if unknown.
        wanted: the parasitaemia (a share) above which a negative call excludes everything.
    """

    def __init__(self, rates: KnownRates | None, wanted: float) -> None:
        self.rates, self.wanted = rates, wanted
        self._limits: dict[int, tuple[int, float | None]] = {}
        self._answers: dict[tuple[int, int, int], Answer] = {}

    def of(self, called: int, dense: int, cells: int, unreadable: tuple[str, ...] = ()) -> Answer:
        """Interpret a count.

        A count above the limit of blank is positive, if enough cells were read. Below it the slide
        is negative if its upper bound is at most the wanted one, otherwise indeterminate. From
        `DENSE` on, a positive slide's parasitaemia comes from the threshold for many parasites.

        Args:
            called: red cells above the counting threshold.
            dense: red cells above the threshold for many parasites.
            cells: red cells that were read.
            unreadable: faults of the slide as a whole, which make any figure worthless.
        """
        if unreadable or not cells:
            return Answer(Call.UNREADABLE, unreadable or (CallReason.NO_CELLS,))
        if self.rates is None:
            return Answer(Call.INDETERMINATE, (CallReason.RATES_UNKNOWN,))
        rates = self.rates
        if not rates.counting.tell:
            return Answer(Call.INDETERMINATE, (CallReason.RATES_TOO_HIGH,))
        key = called, dense, cells
        return _once(self._answers, key, lambda: self._answer(*key, rates))

    @cached_property
    def needed(self) -> int | None:
        """Compute the number of cells for the wanted limit of detection; None if there is none."""
        return None if self.rates is None else cells_needed(self.wanted, self.rates.counting)

    def _answer(self, called: int, dense: int, cells: int, known: KnownRates) -> Answer:
        rates = known.counting
        blank, limit = _once(
            self._limits, cells, lambda: (blank_count(cells, rates), detection_limit(cells, rates))
        )
        bound = upper_bound(called, cells, rates)
        by, counted, of = CountedBy.COUNTING, called, rates
        call, reasons = Call.POSITIVE, tuple[str, ...]()
        if called <= blank:
            call = Call.NEGATIVE if bound <= self.wanted else Call.INDETERMINATE
        elif cells < LEAST_CELLS:
            call, reasons = Call.INDETERMINATE, (CallReason.TOO_FEW,)
        elif corrected(called, cells, rates) >= DENSE and known.dense.tell:
            by, counted, of = CountedBy.DENSE, dense, known.dense
        low, high = interval(counted, cells, of)
        if call == Call.INDETERMINATE and not reasons:
            # With the needed number of cells no count at the limit of blank is in doubt.
            few = self.needed is not None
            reasons = (CallReason.TOO_FEW if few else CallReason.RATES_TOO_HIGH,)
        return Answer(
            call,
            reasons,
            min(max(corrected(counted, cells, of), low), high),
            low,
            high,
            corrected(blank, cells, rates),
            limit,
            bound,
            self.needed,
            by,
        )


def _once(known: dict[Key, Found], key: Key, compute: Callable[[], Found]) -> Found:
    if key not in known:
        known[key] = compute()
    return known[key]
