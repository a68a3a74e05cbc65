"""Say what a laboratory still needs before its patients can be called."""

from collections.abc import Iterator

import numpy as np

from tasks.counting.call import percent_text
from tasks.counting.error_rates import LEAST_SLIDES, ErrorCounts, laboratory_rates
from tasks.counting.interpretation import blank_count, cells_needed
from tasks.types import Counts, Float
from tasks.words import counted

TRIED = (0, 3, 10, 30)  # further negative slides
MARKED = 20  # parasites of a patient, if a person has marked them
MOST_CELLS = 20_000  # that anybody photographs of a patient


def still_missing(
    fitted: ErrorCounts, known: ErrorCounts, log_odds: float, cells: int, wanted: float
) -> list[str]:
    """Say in sentences which calls are possible, and what others need.

    More slides are expected to be like the known ones, and parasites as sure as fitted ones.

    Args:
        fitted: errors on slides of fitted laboratories.
        known: errors on the laboratory's own slides, at least one of them negative.
        log_odds: the counting threshold.
        cells: red cells that count of a patient, as many as patients of the laboratory have.
        wanted: a negative call rules out this parasitaemia, a share.
    """
    rates = laboratory_rates(fitted, known, log_odds)
    least = blank_count(cells, rates) + 1
    positive = f"a patient of {counted(cells, 'cell')} is positive from {least:,} called cells on"
    needed = cells_needed(wanted, rates)
    if needed is not None and needed <= cells:
        return [f"{positive}; negative calls are possible"]
    share = percent_text(100 * wanted)
    if needed is not None and needed <= MOST_CELLS:
        return [f"{positive}; to be negative (at most {share}) a patient needs {needed:,} cells"]
    for what, more in _further(fitted, known, log_odds):
        needed = cells_needed(wanted, laboratory_rates(fitted, more, log_odds))
        if needed is not None and needed <= MOST_CELLS:
            return [positive, f"{what}, and patients of {needed:,} cells can be called negative"]
    rate = f"{rates.false.mean:.2%} of healthy cells are called, which differs between slides"
    return [positive, f"nobody can be called negative (at most {share}): {rate}"]


def _further(
    fitted: ErrorCounts, known: ErrorCounts, log_odds: float
) -> Iterator[tuple[str, ErrorCounts]]:
    """Add more and more slides like the known ones, and say what was added."""
    negative = np.flatnonzero(known.negatives > 0)
    found = fitted.found.sum(axis=0) / max(fitted.positives.sum(), 1)
    some = np.full(LEAST_SLIDES, MARKED)
    for marked in (False, True):
        for slides in TRIED:
            again = np.resize(negative, slides)
            parasites = some if marked else some[:0]
            rows = len(again), len(parasites)
            more = ErrorCounts(
                (*known.slides, *(f"further {n}" for n in range(sum(rows)))),
                np.concatenate([known.negatives, known.negatives[again], 0 * parasites]),
                np.concatenate([known.positives, np.zeros(rows[0], np.int64), parasites]),
                np.concatenate([known.false, known.false[again], _table(0 * parasites, found)]),
                np.concatenate([known.found, 0 * known.found[again], _table(parasites, found)]),
            )
            words = [f"{slides} more negative slides"] * bool(slides)
            words += [f"marked parasites of {LEAST_SLIDES} patients (review serve, apply)"] * marked
            if words:
                yield " and ".join(words), more


def _table(parasites: Counts, found: Float) -> Counts:
    """Count how many of some parasites (S,) pass each threshold, at shares (K,)."""
    return np.rint(np.multiply.outer(parasites, found)).astype(np.int64)
