"""Predict error rates from the counted errors of known slides, and choose thresholds by them.

The threshold for diagnosing a cell gives both errors equal weight. On a slide with few parasites
nearly all cells have none, so the false-positive rate limits detection, and a higher threshold,
which misses more parasites, counts them better. On a slide with many it is the other way round:
patients differ in the share of parasites that is missed, and differ less if few are missed.
"""

from collections.abc import Callable

import numpy as np

from tasks import types
from tasks.detector.error_counts import THRESHOLDS, ErrorCounts
from tasks.smears.counting import interpretation
from tasks.smears.counting.interpretation import ErrorRates, KnownRates
from tasks.smears.counting.rates import (
    LABORATORIES,
    Rate,
    laboratory_prior,
    predict_rate,
)

COARSE = 4  # thresholds between those tried first
DIAGNOSIS = 0.0  # log-odds at which a cell is diagnosed
NEAR = 1.2  # times the least loss: see `known_rates`
# Of all parasites. Of 28 infected patients of two laboratories left out, its threshold suspects 24,
# of 29 healthy ones of six 4; one that finds .65 suspects 24 and 8, one that finds .25 15 and 4.
SURE_FOUND = 0.4
LEAST_FOUND = 0.2  # of all parasites: a threshold that finds fewer is not worth trying


def rates_at(counts: ErrorCounts, log_odds: float) -> ErrorRates:
    """Predict the error rates of an unseen slide at one of `THRESHOLDS`.

    Raises:
        ValueError: no slide has cells of a kind.
    """
    return _Predictions(counts).at(int(np.argmin(np.abs(THRESHOLDS - log_odds))))


def laboratory_rates(
    fitted: ErrorCounts, laboratory: ErrorCounts, log_odds: float, apart: float = LABORATORIES
) -> ErrorRates:
    """Predict the error rates of a slide of one laboratory at one of `THRESHOLDS`.

    Slides of ``fitted`` laboratories supply the prior; the laboratory's own may have known cells of
    only one kind, or of none. Laboratories are ``apart`` in their false positives.
    """
    place = int(np.argmin(np.abs(THRESHOLDS - log_odds)))
    false = laboratory_prior(fitted.false[:, place], fitted.negatives, apart)
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
    parasitaemia of `interpretation.DENSE`; both are for a number of red ``cells``. Every fourth
    threshold is tried, then the neighbours of the best. Of nearly equal ones the highest is chosen.

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
