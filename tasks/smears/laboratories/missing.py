"""Say what a laboratory still needs before its patients can be called."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tasks import bundles
from tasks.detector.error_counts import LEAST_SLIDES, THRESHOLDS, ErrorCounts, merge_errors
from tasks.smears.counting.call import LEAST_CELLS, percent_text
from tasks.smears.counting.error_rates import laboratory_rates
from tasks.smears.counting.interpretation import ErrorRates, blank_count, cells_needed
from tasks.words import counted

TRIED = (3, 10, 30)  # further negative slides
MARKED = 20  # parasites of a patient, if a person has marked them
MOST_CELLS = 20_000  # that anybody photographs of a patient


def positive_text(rates: ErrorRates, cells: int) -> str:
    """Say from how many called cells on a patient of some red ``cells`` is positive."""
    if not rates.tell:
        return "nobody can be called: healthy cells are called as often as parasites"
    if cells < LEAST_CELLS:
        return f"patients of fewer than {LEAST_CELLS} red cells that count are never positive"
    least = blank_count(cells, rates.false.nodes) + 1
    return f"a patient of {counted(cells, 'red cell')} is positive from {least:,} called ones on"


def negative_texts(
    fitted: ErrorCounts, known: ErrorCounts, rates: ErrorRates, wanted: float
) -> list[str]:
    """Say what a negative call needs at a laboratory, in at most one sentence.

    More slides are expected to be like the known ones, and parasites as sure as fitted ones.

    Args:
        fitted: errors on slides of fitted laboratories.
        known: errors on the laboratory's own slides, at least one of them negative.
        rates: the laboratory's, at the counting threshold.
        wanted: a negative call rules out this parasitaemia, a share.
    """
    if not rates.tell:
        return []
    share = percent_text(100 * wanted)
    needed = cells_needed(wanted, rates)
    if needed is not None and needed <= MOST_CELLS:
        return [f"to be negative (at most {share}) a patient needs {needed:,} red cells"]
    for what, more in _further(fitted, known):
        needed = cells_needed(wanted, laboratory_rates(fitted, more, rates.log_odds))
        if needed is not None and needed <= MOST_CELLS:
            return [f"{what}, and patients of {needed:,} red cells can be negative"]
    rate = f"{rates.false.mean:.2%} of healthy cells are called, which differs between slides"
    return [f"nobody can be called negative (at most {share}): {rate}"]


def _further(fitted: ErrorCounts, known: ErrorCounts) -> Iterator[tuple[str, ErrorCounts]]:
    """Add more and more slides like the known ones, and say what was added."""
    negative = np.flatnonzero(known.negatives > 0)
    none = np.zeros((LEAST_SLIDES, len(THRESHOLDS)), np.int64)
    found = np.rint(MARKED * fitted.found.sum(axis=0) / max(fitted.positives.sum(), 1))
    marked = ErrorCounts(
        tuple(f"marked {n}" for n in range(LEAST_SLIDES)),
        none[:, 0],
        none[:, 0] + MARKED,
        none,
        none + found.astype(np.int64),
    )
    by_person = f"marked parasites of {LEAST_SLIDES} patients (review serve, apply)"
    for words, start in (([], known), ([by_person], merge_errors(known, marked))):
        if words:
            yield by_person, start
        for slides in TRIED:
            again = bundles.take(known, np.resize(negative, slides))
            again = replace(again, slides=tuple(f"further {n}" for n in range(slides)))
            yield (
                " and ".join([f"{slides} more negative slides", *words]),
                merge_errors(start, again),
            )
