"""Count how often cells of known kind pass a threshold, slide by slide: merged and retracted.

Cells of a slide resemble each other, so an error rate is a distribution over slides. The statistics
keep, for each slide, how many cells without and with a parasite pass each of a fixed set of
thresholds. They are counts: merging adds them and retracting takes them away, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.types import Arrays, Float

# Log-odds of "parasitized", after the temperature. Beyond the last a network is as good as certain.
THRESHOLDS: Float = np.arange(-4.0, 12.25, 0.25)
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ErrorCounts:
    """Hold, for S slides, how many cells there are and how many pass each of K thresholds.

    ``slides`` (S,) are sorted keys; ``negatives`` and ``positives`` (S,) count cells without and
    with a parasite, ``false`` and ``found`` (S, K) those of each that pass.
    """

    slides: tuple[str, ...]
    negatives: Counts
    positives: Counts
    false: Counts
    found: Counts

    @classmethod
    def empty(cls) -> "ErrorCounts":
        """Make the counts of no slide."""
        none, table = np.zeros(0, np.int64), np.zeros((0, len(THRESHOLDS)), np.int64)
        return cls((), none, none, table, table)

    def to_arrays(self) -> Arrays:
        """Name the arrays, for keeping."""
        return {
            "slides": np.frombuffer("\n".join(self.slides).encode(), np.uint8),
            "negatives": self.negatives,
            "positives": self.positives,
            "false": self.false,
            "found": self.found,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "ErrorCounts":
        """Read counts back from `to_arrays`."""
        text = arrays["slides"].tobytes().decode()
        return cls(
            tuple(text.split("\n")) if text else (),
            arrays["negatives"],
            arrays["positives"],
            arrays["false"],
            arrays["found"],
        )


def count_errors(
    log_odds: Float, parasitized: NDArray[np.bool_], slides: Sequence[str]
) -> ErrorCounts:
    """Count cells of known kind.

    Args:
        log_odds: (n,) of "parasitized"; a cell whose are not finite is left out.
        parasitized: (n,), what each cell is.
        slides: (n,), the key of each cell's slide, without line breaks.
    """
    known = np.isfinite(log_odds)
    names, index = np.unique(np.asarray(slides, object)[known].astype(str), return_inverse=True)
    log_odds, parasitized = log_odds[known], parasitized[known]
    # How many thresholds a cell passes: it passes all below that number.
    passed = np.searchsorted(THRESHOLDS, log_odds, side="right")
    table = np.zeros((2, len(names), len(THRESHOLDS) + 1), np.int64)
    np.add.at(table, (parasitized.astype(np.intp), index, passed), 1)
    # Those that pass threshold k are all that pass more than k.
    passing = table[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    return ErrorCounts(
        tuple(names.tolist()),
        passing[0, :, 0],
        passing[1, :, 0],
        passing[0, :, 1:],
        passing[1, :, 1:],
    )


def merge_errors(a: ErrorCounts, b: ErrorCounts) -> ErrorCounts:
    """Add two counts; a slide that is in both has the cells of both."""
    return _combined(a, b, 1)


def retract_errors(total: ErrorCounts, part: ErrorCounts) -> ErrorCounts:
    """Take counts out of a total; slides that have no cell left are gone.

    Raises:
        ValueError: the part is not in the total.
    """
    if not set(part.slides) <= set(total.slides):
        raise ValueError("counts of slides that are not there cannot be taken out")
    left = _combined(total, part, -1)
    arrays = (left.negatives, left.positives, left.false, left.found)
    if any((array < 0).any() for array in arrays):
        raise ValueError("more cells of a slide were to be taken out than it has")
    kept = np.flatnonzero(left.negatives + left.positives)
    return ErrorCounts(
        tuple(left.slides[i] for i in kept),
        left.negatives[kept],
        left.positives[kept],
        left.false[kept],
        left.found[kept],
    )


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
