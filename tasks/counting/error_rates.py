"""Count cells of known kind that pass a threshold, by slide; counts merge and retract.

Cells of a slide resemble each other, so an error rate is a distribution over slides. The statistics
keep, for each slide, the numbers of cells without and with a parasite that pass each of a fixed set
of thresholds. Merging adds these counts and retracting subtracts them, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.bundles import Bundle, take
from tasks.types import Float

# Log-odds of "parasitized", after the temperature. Beyond the last a network is certain.
THRESHOLDS: Float = np.arange(-4.0, 12.25, 0.25)
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ErrorCounts(Bundle):
    """The numbers of cells of S slides, and of those that pass each of K thresholds.

    ``slides`` (S,) are sorted keys; ``negatives`` and ``positives`` (S,) count cells without and
    with a parasite, ``false`` and ``found`` (S, K) those that pass.
    """

    slides: tuple[str, ...]
    negatives: Counts
    positives: Counts
    false: Counts
    found: Counts

    @classmethod
    def empty(cls) -> "ErrorCounts":
        """Make empty counts."""
        none, table = np.zeros(0, np.int64), np.zeros((0, len(THRESHOLDS)), np.int64)
        return cls((), none, none, table, table)


def count_errors(
    log_odds: Float, parasitized: NDArray[np.bool_], slides: Sequence[str]
) -> ErrorCounts:
    """Count cells of known kind.

    Args:
        log_odds: (n,) of "parasitized"; cells without finite ones are left out.
        parasitized: (n,), the labels.
        slides: (n,), the key of each cell's slide, without line breaks.
    """
    known = np.isfinite(log_odds)
    names, index = np.unique(np.asarray(slides, object)[known].astype(str), return_inverse=True)
    log_odds, parasitized = log_odds[known], parasitized[known]
    # The number of thresholds that a cell passes.
    passed = np.searchsorted(THRESHOLDS, log_odds, side="right")
    table = np.zeros((2, len(names), len(THRESHOLDS) + 1), np.int64)
    np.add.at(table, (parasitized.astype(np.intp), index, passed), 1)
    # Cells that pass threshold k pass more than k in all.
    passing = table[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    return ErrorCounts(
        tuple(names.tolist()),
        passing[0, :, 0],
        passing[1, :, 0],
        passing[0, :, 1:],
        passing[1, :, 1:],
    )


def merge_errors(a: ErrorCounts, b: ErrorCounts) -> ErrorCounts:
    """Add two counts; a slide in both has the cells of both."""
    return _combined(a, b, 1)


def retract_errors(total: ErrorCounts, part: ErrorCounts) -> ErrorCounts:
    """Remove counts from a total; slides without remaining cells disappear.

    Raises:
        ValueError: the part is not in the total.
    """
    if not set(part.slides) <= set(total.slides):
        raise ValueError("counts of slides that are not there cannot be taken out")
    left = _combined(total, part, -1)
    arrays = (left.negatives, left.positives, left.false, left.found)
    if any((array < 0).any() for array in arrays):
        raise ValueError("more cells of a slide were to be taken out than it has")
    return take(left, np.flatnonzero(left.negatives + left.positives))


def _combined(a: ErrorCounts, b: ErrorCounts, sign: int) -> ErrorCounts:
    names = sorted({*a.slides, *b.slides})
    place = {name: i for i, name in enumerate(names)}

    def spread(counts: ErrorCounts, array: Counts) -> Counts:
        wide = np.zeros((len(names), *array.shape[1:]), np.int64)
        wide[[place[name] for name in counts.slides]] = array
        return wide

    return ErrorCounts(
        tuple(names),
        *(
            spread(a, getattr(a, name)) + sign * spread(b, getattr(b, name))
            for name in ("negatives", "positives", "false", "found")
        ),
    )
