"""Call a slide or a patient: positive, negative, indeterminate or unreadable, and say why."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TypeVar

from tasks.counting.limits import (
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


# Red cells below which nobody is called positive: two called cells of seven are no parasitaemia of
# 28%, and the error rates were counted on slides of more cells.
LEAST_CELLS = 30


class Call(StrEnum):
    """Name what is said of a slide or a patient."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    INDETERMINATE = "indeterminate"
    UNREADABLE = "unreadable"


class CountedBy(StrEnum):
    """Name the threshold that a corrected count is of."""

    COUNTING = "counting"
    DENSE = "dense"


class CallReason(StrEnum):
    """Name why a call is neither positive nor negative; reasons of a slide may stand beside."""

    NO_CELLS = "no red cells"
    RATES_UNKNOWN = "error rates unknown"
    TOO_FEW = "too few cells"
    RATES_TOO_HIGH = "error rates too high"


@dataclass(frozen=True)
class Answer:
    """Hold the meaning of a count: shares in [0, 1], None where the error rates do not apply.

    ``by`` names the threshold whose count was corrected;
    ``limit_of_detection`` is None too where no parasitaemia would be seen for certain, and
    ``needed`` where no number of cells excludes what a negative call must exclude;
    ``none_above`` is the one-sided 95% bound that a negative call states.
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
    """Say what counts of parasites mean; equal counts are computed once.

    Args:
        rates: error rates of both thresholds, None where they are not known.
        wanted: the parasitaemia, a share, above which a negative call excludes everything.
    """

    def __init__(self, rates: KnownRates | None, wanted: float) -> None:
        self.rates, self.wanted = rates, wanted
        self._limits: dict[int, tuple[int, float | None]] = {}
        self._answers: dict[tuple[int, int, int], Answer] = {}

    def of(self, called: int, dense: int, cells: int, unreadable: tuple[str, ...] = ()) -> Answer:
        """Say what a count means.

        A count above the limit of blank is positive, if enough cells were read. Below it the slide
        is negative where its upper bound is no more than what is wanted, and else indeterminate. A
        positive slide from `DENSE` on has the parasitaemia of the threshold for many parasites.

        Args:
            called: red cells above the counting threshold.
            dense: red cells above the threshold for many parasites.
            cells: red cells that were read.
            unreadable: what is wrong with the slide as a whole, which makes any figure worthless.
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
        """Compute how many cells have a limit of detection of what is wanted; None: no number."""
        return None if self.rates is None else cells_needed(self.wanted, self.rates.counting)

    def _answer(self, called: int, dense: int, cells: int, known: KnownRates) -> Answer:
        rates = known.counting
        blank, limit = _once(
            self._limits, cells, lambda: (blank_count(cells, rates), detection_limit(cells, rates))
        )
        low, high = interval(called, cells, rates)
        bound = upper_bound(called, cells, rates)
        estimate, by = corrected(called, cells, rates), CountedBy.COUNTING
        call, reasons = Call.POSITIVE, tuple[str, ...]()
        if called <= blank:
            call = Call.NEGATIVE if bound <= self.wanted else Call.INDETERMINATE
        elif cells < LEAST_CELLS:
            call, reasons = Call.INDETERMINATE, (CallReason.TOO_FEW,)
        elif estimate >= DENSE and known.dense.tell:
            by, estimate = CountedBy.DENSE, corrected(dense, cells, known.dense)
            low, high = interval(dense, cells, known.dense)
        if call == Call.INDETERMINATE and not reasons:
            # With as many cells as are needed no count at the limit of blank is in doubt.
            few = self.needed is not None
            reasons = (CallReason.TOO_FEW if few else CallReason.RATES_TOO_HIGH,)
        return Answer(
            call,
            reasons,
            min(max(estimate, low), high),
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
