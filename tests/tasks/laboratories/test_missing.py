"""What a laboratory still needs before its patients can be called, in sentences."""

import numpy as np

from tasks.counting.error_rates import ErrorCounts, count_errors, merge_errors
from tasks.laboratories.missing import still_missing

THRESHOLD = 3.0


def slides(
    names: str, cells: int, called: int, *, parasites: int = 0, found: int = 0
) -> ErrorCounts:
    """Counts of slides that are all alike."""
    total = ErrorCounts.empty()
    for name in names:
        log_odds = np.repeat(
            [5.0, -5.0, 5.0, -5.0], [called, cells - called, found, parasites - found]
        )
        labels = np.arange(len(log_odds)) >= cells
        total = merge_errors(total, count_errors(log_odds, labels, [name] * len(log_odds)))
    return total


FITTED = slides("abcdefghij", 4000, 2, parasites=200, found=180)


def test_it_says_from_how_many_called_cells_on_a_patient_is_positive() -> None:
    (positive, missing) = still_missing(FITTED, slides("xy", 300, 1), THRESHOLD, 300, 0.01)
    assert positive.startswith("a patient of 300 cells is positive from ")
    assert missing.startswith("3 more negative slides, and patients of ")


def test_a_laboratory_with_many_slides_and_marked_parasites_misses_cells_or_nothing() -> None:
    known = merge_errors(slides("uvwxyz", 4000, 2), slides("mnopq", 0, 0, parasites=50, found=45))
    (enough,) = still_missing(FITTED, known, THRESHOLD, 8000, 0.01)
    assert enough.endswith("; negative calls are possible")
    (few,) = still_missing(FITTED, known, THRESHOLD, 100, 0.01)
    assert "to be negative (at most 1%) a patient needs " in few


def test_where_too_many_healthy_cells_are_called_nobody_can_be_negative() -> None:
    *_, missing = still_missing(FITTED, slides("uvwxyz", 1000, 100), THRESHOLD, 1000, 0.01)
    assert missing.startswith("nobody can be called negative (at most 1%): ")
    assert "of healthy cells are called" in missing
