"""Count cells of known kind that pass a threshold, by slide, and choose thresholds by these errors.

Cells of a slide resemble each other, so an error rate is a distribution over slides. The statistics
keep, for each slide, the numbers of cells without and with a parasite that pass each of a fixed set
of thresholds. Merging adds these counts and retracting subtracts them, exactly.

The threshold for diagnosing a cell gives both errors equal weight. On a slide with few parasites
nearly all cells have none, so the false-positive rate limits detection, and a higher threshold,
which misses more parasites, counts them better. On a slide with many it is the other way round:
patients differ in the share of parasites that is missed, and differ less if few are missed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks import bundles, types
from tasks.counting import interpretation
from tasks.counting.interpretation import ErrorRates, KnownRates
from tasks.counting.negative import LEAST_CELLS
from tasks.counting.rates import Rate, laboratory_prior, predict_rate

# Log-odds of "parasitized", after the temperature. Beyond the last a network is certain.
THRESHOLDS: types.Float = np.arange(-4.0, 12.25, 0.25)
LEAST_SLIDES = 5  # with cells of a kind; fewer hardly show how slides differ
COARSE = 4  # thresholds between those tried first
DIAGNOSIS = 0.0  # log-odds at which a cell is diagnosed
NEAR = 1.2  # times the least loss: see `known_rates`
SURE_FOUND = 0.25  # of all parasites, at a threshold that hardly any healthy cell passes
LEAST_FOUND = 0.2  # of all parasites: a threshold that finds fewer is not worth trying


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
    """Count cells of known kind.

    Args:
        log_odds: (n,) of "parasitized"; cells without finite ones are left out.
        parasitized: (n,), the labels.
        slides: (n,), the key of each cell's slide, without line breaks.
        sizes: (n,), the larger side of each cell in pixels, if known.
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
    return ErrorCounts(
        tuple(names.tolist()),
        passing[0, :, 0],
        passing[1, :, 0],
        passing[0, :, 1:],
        passing[1, :, 1:],
        pixels,
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
    known = ((cells > 0).sum() for cells in (counts.negatives, counts.positives))
    return bool(min(known) >= LEAST_SLIDES)


def rates_at(counts: ErrorCounts, log_odds: float) -> ErrorRates:
    """Predict the error rates of an unseen slide at one of `THRESHOLDS`.

    Raises:
        ValueError: no slide has cells of a kind.
    """
    return _Predictions(counts).at(int(np.argmin(np.abs(THRESHOLDS - log_odds))))


def laboratory_rates(fitted: ErrorCounts, laboratory: ErrorCounts, log_odds: float) -> ErrorRates:
    """Predict the error rates of a slide of one laboratory at one of `THRESHOLDS`.

    Args:
        fitted: counts of slides of fitted laboratories, which supply the prior.
        laboratory: counts of its slides; it may have known cells of only one kind, or of none.
        log_odds: the threshold.
    """
    place = int(np.argmin(np.abs(THRESHOLDS - log_odds)))
    false = laboratory_prior(fitted.false[:, place], fitted.negatives)
    sensitivity = laboratory_prior(fitted.found[:, place], fitted.positives)
    return ErrorRates(
        float(THRESHOLDS[place]),
        predict_rate(laboratory.false[:, place], laboratory.negatives, false),
        predict_rate(laboratory.found[:, place], laboratory.positives, sensitivity),
    )


def known_rates(counts: ErrorCounts, cells: int) -> KnownRates:
    """Choose both counting thresholds, from that of the diagnosis upwards.

    The one for few parasites has the least limit of detection; if no parasitaemia is certain to be
    seen at any, it has the fewest false positives. The one for many has the narrowest interval at a
    parasitaemia of `interpretation.DENSE`. Every fourth threshold is tried, then the neighbours of
    the best one. Of nearly equal ones the highest is chosen, because chance favours one just above
    the false positives of the known slides.

    Args:
        counts: of slides with known cells.
        cells: number of red cells for which to optimise the thresholds.

    Raises:
        ValueError: no slide has cells of a kind.
    """
    predict = _Predictions(counts)

    def limit(rates: ErrorRates) -> tuple[float, float]:
        parasitaemia = interpretation.detection_limit(cells, rates)
        return (1.0 if parasitaemia is None else parasitaemia), rates.false.mean

    def width(rates: ErrorRates) -> tuple[float, float]:
        return interpretation.expected_width(rates, interpretation.DENSE, cells), rates.false.mean

    return KnownRates(_best(counts, predict, limit), _best(counts, predict, width))


def sure_rates(counts: ErrorCounts) -> ErrorRates:
    """Predict the error rates of the highest threshold that finds `SURE_FOUND` of the parasites.

    Raises:
        ValueError: no slide has cells of a kind.
    """
    enough = counts.found.sum(axis=0) >= SURE_FOUND * counts.positives.sum()
    return _Predictions(counts).at(int(np.flatnonzero(enough).max(initial=0)))


def _best(
    counts: ErrorCounts, predict: "_Predictions", loss: Callable[[ErrorRates], tuple[float, float]]
) -> ErrorRates:
    """Find the highest threshold with nearly the least loss."""
    tried: dict[int, tuple[float, float]] = {}

    def best(places: types.Index) -> int:
        for place in places.tolist():
            if place not in tried:
                tried[place] = loss(predict.at(place))
        return min(tried, key=lambda place: (*tried[place], place))

    first = int(np.searchsorted(THRESHOLDS, DIAGNOSIS))
    passing = counts.found.sum(axis=0) >= LEAST_FOUND * counts.positives.sum()
    last = max(first, int(np.flatnonzero(passing).max(initial=0)))
    near = best(np.arange(first, last + 1, COARSE))
    best(np.arange(max(first, near - COARSE + 1), min(last + 1, near + COARSE)))
    least = min(tried.values())[0]
    return predict.at(max(place for place, (value, _) in tried.items() if value <= NEAR * least))


class _Predictions:
    """Predict the rates at the thresholds of some counts; equal hits are computed once."""

    def __init__(self, counts: ErrorCounts) -> None:
        self._counts, self._known = counts, dict[tuple[bool, bytes], Rate]()

    def at(self, place: int) -> ErrorRates:
        """Predict both rates at the threshold of that place in `THRESHOLDS`."""
        counts = self._counts
        false = self._rate(False, counts.false[:, place], counts.negatives)
        sensitivity = self._rate(True, counts.found[:, place], counts.positives)
        return ErrorRates(float(THRESHOLDS[place]), false, sensitivity)

    def _rate(self, parasites: bool, hits: types.Counts, cells: types.Counts) -> Rate:
        key = parasites, hits.tobytes()
        if key not in self._known:
            self._known[key] = predict_rate(hits, cells)
        return self._known[key]
