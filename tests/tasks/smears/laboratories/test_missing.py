"""What a laboratory still needs before its patients can be called, in sentences."""

import numpy as np

from tasks.detector.error_counts import ErrorCounts, count_errors, merge_errors
from tasks.smears.counting.error_rates import laboratory_rates
from tasks.smears.laboratories.commissioning import negative_texts, positive_text

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


def texts(known: ErrorCounts, cells: int) -> tuple[str, list[str]]:
    rates = laboratory_rates(FITTED, known, THRESHOLD)
    return positive_text(rates, cells), negative_texts(FITTED, known, rates, 0.01)


def test_it_says_from_how_many_called_cells_on_a_patient_is_positive() -> None:
    positive, (missing,) = texts(slides("xy", 300, 1), 300)
    assert positive.startswith("a patient of 300 red cells is positive from ")
    assert missing.startswith("3 more negative slides, and patients of ")
    assert "fewer than 30 red cells" in texts(slides("xy", 300, 1), 29)[0]


def test_a_laboratory_with_many_slides_and_marked_parasites_needs_cells_alone() -> None:
    known = merge_errors(slides("uvwxyz", 4000, 2), slides("mnopq", 0, 0, parasites=50, found=45))
    _, (missing,) = texts(known, 8000)
    assert missing.startswith("to be negative (at most 1%) a patient needs ")


def test_where_too_many_healthy_cells_are_called_nobody_can_be_negative_or_called() -> None:
    _, (missing,) = texts(slides("uvwxyz", 1000, 100), 1000)
    assert missing.startswith("nobody can be called negative (at most 1%): ")
    assert "of healthy cells are called" in missing
    hopeless, missing = texts(slides("uvwxyz", 1000, 990), 1000)
    assert (hopeless.partition(":")[0], missing) == ("nobody can be called", [])
