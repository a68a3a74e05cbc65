"""Count cells of known kind that pass a threshold of the diagnosis, by slide.

Cells of a slide resemble each other, so an error rate is a distribution over slides. The statistics
keep, for each slide, the numbers of cells without and with a parasite that pass each of a fixed set
of thresholds. Merging adds these counts and retracting subtracts them, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks import bundles, types

# Log-odds of "parasitized", after the temperature. Beyond the last a network is certain.
THRESHOLDS: types.Float = np.arange(-4.0, 12.25, 0.25)
LEAST_SLIDES = 5  # with cells of a kind; fewer hardly show how slides differ
LEAST_CELLS = 30  # of a slide with known cells, whose mean size says how it was photographed


@dataclass(frozen=True)
class ErrorCounts(bundles.Bundle):
    """The numbers of cells of S slides, and of those that pass each of K thresholds.

    ``slides`` (S,) are sorted keys; ``negatives`` and ``positives`` (S,) count cells without and
    with a parasite, ``false`` and ``found`` (S, K) those that pass. ``pixels`` (S,) sum the larger
    sides of all these cells, in pixels; None if some are unknown.
    """

    slides: tuple[str, ...]
    negatives: types.Counts
    positives: types.Counts
    false: types.Counts
    found: types.Counts
    pixels: types.Counts | None = None

    @classmethod
    def empty(cls) -> "ErrorCounts":
        """Make empty counts."""
        none, table = np.zeros(0, np.int64), np.zeros((0, len(THRESHOLDS)), np.int64)
        return cls((), none, none, table, table, none)

    def least_size(self) -> float | None:
        """Return the smallest mean size of a slide's cells, in pixels; None if it is unknown."""
        cells = self.negatives + self.positives
        known = cells >= LEAST_CELLS
        if self.pixels is None or not known.any():
            return None
        return float((self.pixels[known] / cells[known]).min())


def count_errors(
    log_odds: types.Float,
    parasitized: types.Mask,
    slides: Sequence[str],
    sizes: types.Integers | None = None,
) -> ErrorCounts:
    """Count cells of known kind by their log-odds (n,); cells without finite ones are left out.

    ``parasitized`` (n,) are the labels, ``slides`` (n,) the keys of the cells' slides, without line
    breaks, and ``sizes`` (n,) the larger sides of the cells in pixels, if known.
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
    pixels = None
    if sizes is not None:
        pixels = np.zeros(len(names), np.int64)
        np.add.at(pixels, index, sizes[known])
    (negatives, positives), (false, found) = passing[:, :, 0], passing[:, :, 1:]
    return ErrorCounts(tuple(names.tolist()), negatives, positives, false, found, pixels)


def merge_errors(a: ErrorCounts, b: ErrorCounts) -> ErrorCounts:
    """Add two counts; a slide in both has the cells of both."""
    return _combined(a, b, 1)


def retract_errors(total: ErrorCounts, part: ErrorCounts) -> ErrorCounts:
    """Remove counts, and slides without remaining cells; ValueError if they are not there."""
    if not set(part.slides) <= set(total.slides):
        raise ValueError("counts of slides that are not there cannot be taken out")
    left = _combined(total, part, -1)
    if any((array < 0).any() for array in (left.negatives, left.positives, left.false, left.found)):
        raise ValueError("more cells of a slide were to be taken out than it has")
    return bundles.take(left, np.flatnonzero(left.negatives + left.positives))


def _combined(a: ErrorCounts, b: ErrorCounts, sign: int) -> ErrorCounts:
    names = sorted({*a.slides, *b.slides})
    place = {name: i for i, name in enumerate(names)}

    def spread(counts: ErrorCounts, array: types.Counts) -> types.Counts:
        wide = np.zeros((len(names), *array.shape[1:]), np.int64)
        wide[[place[name] for name in counts.slides]] = array
        return wide

    cells = ("negatives", "positives", "false", "found")
    summed = {n: spread(a, getattr(a, n)) + sign * spread(b, getattr(b, n)) for n in cells}
    pixels = None
    if a.pixels is not None and b.pixels is not None:
        pixels = spread(a, a.pixels) + sign * spread(b, b.pixels)
    return ErrorCounts(tuple(names), **summed, pixels=pixels)


def are_enough(counts: ErrorCounts) -> bool:
    """Return whether enough slides have cells of each kind to estimate error rates."""
    kinds = (counts.negatives, counts.positives)
    return all(np.count_nonzero(cells) >= LEAST_SLIDES for cells in kinds)
