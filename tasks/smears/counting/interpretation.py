"""Interpret a count of parasites on a slide, with the errors of both rates.

Of n red cells, k are called parasitized. With parasitaemia x each is called with probability q = x
s + (1 - x) f, where the slide's sensitivity s and false-positive rate f are not known but predicted
(`rates.py`): k is a mixture of binomials over their nodes. The interval contains every parasitaemia
for which k is neither improbably large nor small. Upper bounds are relative to the probability
without parasites (CLs, Read 2002). The limit of blank is the count that 95% of slides without
parasites do not exceed, the limit of detection the least parasitaemia at which 95% of slides exceed
it (Armbruster & Pry 2008; CLSI EP17).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, betainc, betaln, xlog1py, xlogy

from tasks import bundles, types
from tasks.smears.counting.rates import NODES, Rate

LEVEL = 0.95
TURNS = 3  # sensitivities that each false-positive rate is paired with
# Its multiples, less their whole parts, fill [0, 1] evenly, in any run of them (Kronecker).
GOLDEN = (5**0.5 - 1) / 2
FEW = 12  # calls, up to which a tail is summed
MOST_CELLS = 10_000_000
# From this parasitaemia on there are many parasites: a lower threshold finds more of them, and its
# false positives (none on some slides, a few percent on others) matter less.
DENSE = 0.05


@dataclass(frozen=True)
class ErrorRates(bundles.Bundle):
    """The error rates of a counting threshold, the ``log_odds`` of "parasitized"."""

    log_odds: float
    false: Rate
    found: Rate

    @property
    def tell(self) -> bool:
        """Return whether parasites are called more often than healthy cells."""
        return self.found.median > self.false.median

    @cached_property
    def _pairs(self) -> tuple[types.Float, types.Float]:
        """Pair nodes of both rates, (J,) each, as if independent, with equal probabilities.

        Rates that follow each other are paired with sensitivities from everywhere, so that a count
        that only a few rates explain is still averaged over all sensitivities.
        """
        spread = (np.arange(TURNS * NODES) + 0.5) * GOLDEN % 1
        sensitivity = self.found.nodes[(spread * NODES).astype(np.intp)]
        return np.repeat(self.false.nodes, TURNS), sensitivity

    def called(self, share: float) -> types.Float:
        """Compute the probabilities (J,) that a cell is called, at a parasitaemia."""
        false, sensitivity = self._pairs
        return share * sensitivity + (1 - share) * false


@dataclass(frozen=True)
class KnownRates(bundles.Bundle):
    """The error rates of the counting thresholds: one for few parasites, one for many.

    ``counting`` distinguishes few parasites from none. ``dense``, a lower threshold, counts many
    parasites better: it misses fewer, so patients differ less in the share that it misses.
    """

    counting: ErrorRates
    dense: ErrorRates


def corrected(called: int, cells: int, rates: ErrorRates) -> float:
    """Correct the called share for both error rates, within [0, 1] (Rogan & Gladen 1978).

    The rates are medians over slides: their distribution is skewed, and a few slides with most of
    the errors dominate the means.
    """
    if not rates.tell:
        return float("nan")
    false, sensitivity = rates.false.median, rates.found.median
    return float(np.clip((called / cells - false) / (sensitivity - false), 0.0, 1.0))


def interval(called: int, cells: int, rates: ErrorRates) -> tuple[float, float]:
    """Compute the 95% interval of the parasitaemia, a share in [0, 1].

    It contains every parasitaemia at which both tails of ``called`` have a probability of at least
    2.5%, the lower tail relative to its probability without parasites; ``called`` itself counts
    half, so that the interval is not too wide (mid-p, Lancaster 1961). The rates are those of an
    unseen slide, so it covers the chance of counting, the variation of both rates between slides,
    and the uncertainty about it.
    """
    tail, at_most = (1 - LEVEL) / 2, _lower_tail(called, cells, rates)
    low = _falls_to(1 - tail, at_most, called / cells)
    return low, _upper(called, cells, at_most, tail)


def upper_bound(called: int, cells: int, rates: ErrorRates) -> float:
    """Compute the one-sided 95% upper bound of the parasitaemia, a share."""
    return _upper(called, cells, _lower_tail(called, cells, rates), 1 - LEVEL)


def _lower_tail(called: int, cells: int, rates: ErrorRates) -> Callable[[float], float]:
    return cache(lambda x: _at_most(called, cells, rates.called(x)))


def _upper(called: int, cells: int, at_most: Callable[[float], float], tail: float) -> float:
    """Find the parasitaemia at which the lower tail is ``tail`` times that without parasites."""
    without = at_most(0.0)
    if not without:  # nothing known of the rates allows this count
        return 1.0
    # Seldom below four calls more than there are, if every parasite were called.
    return _falls_to(tail * without, at_most, (called + 4) / cells)


def _falls_to(goal: float, at_most: Callable[[float], float], near: float) -> float:
    """Find the parasitaemia at which a lower tail is ``goal``; see `_root`.

    A tail falls nearly as an exponential does, so its logarithm takes fewer steps.
    """
    least = np.finfo(np.float64).tiny
    return _root(lambda x: float(np.log(goal / max(at_most(x), least))), near)


def expected_width(rates: ErrorRates, share: float, cells: int) -> float:
    """Compute the width of the interval for the expected count at a parasitaemia."""
    expected = share * rates.found.mean + (1 - share) * rates.false.mean
    low, high = interval(round(expected * cells), cells, rates)
    return high - low


def chance_of_blank(called: int, cells: int, rates: ErrorRates) -> float:
    """Compute the probability that a slide without parasites has ``called`` cells or more."""
    return _at_least(called, cells, rates.false.nodes)


def blank_count(cells: int, false: types.Float) -> int:
    """Compute the limit of blank: the count that 95% of slides without parasites do not exceed.

    ``false`` (J,) are equally probable false-positive rates of a slide.
    """
    low, high = -1, cells
    while high - low > 1:
        middle = (low + high) // 2
        if _at_least(middle + 1, cells, false) <= 1 - LEVEL:
            high = middle
        else:
            low = middle
    return high


def cells_to_decide(called: int, cells: int, rates: ErrorRates) -> int | None:
    """Compute the number of cells at which as large a share called exceeds the limit of blank.

    None if no cell is called, or no number up to `MOST_CELLS` is enough.
    """
    number = cells
    while called and number <= MOST_CELLS:
        if called * number // cells > blank_count(number, rates.false.nodes):
            return number
        number = math.ceil(1.2 * number)
    return None


def detection_limit(cells: int, rates: ErrorRates) -> float | None:
    """Compute the limit of detection for ``cells`` cells, a share; None if there is none."""
    if cells < 1:
        return None
    count = blank_count(cells, rates.false.nodes) + 1

    def seen(x: float) -> float:
        return _at_least(count, cells, rates.called(x)) - LEVEL

    return _root(seen, 2 * count / cells) if count <= cells and seen(1.0) >= 0 else None


def cells_needed(limit: float, rates: ErrorRates) -> int | None:
    """Compute the number of cells for a limit of detection; None if no number is enough.

    If slides differ in their false-positive rate, more cells of one slide help only up to a point.
    """
    low, high = 1, MOST_CELLS
    most = detection_limit(high, rates)
    if most is None or most > limit:
        return None
    while high > 1.01 * low + 1:
        middle = round((low * high) ** 0.5) if low > 1 else round(high**0.5)
        middle = min(max(middle, low + 1), high - 1)
        least = detection_limit(middle, rates)
        low, high = (low, middle) if least is not None and least <= limit else (middle, high)
    return high


def _at_least(count: int, cells: int, q: types.Float) -> float:
    """Compute the probability of at least ``count`` of ``cells``, mean over q (J,)."""
    if count <= 0:
        return 1.0
    if count > cells:
        return 0.0
    return float(betainc(count, cells - count + 1, q).mean())


def _at_most(called: int, cells: int, q: types.Float) -> float:
    """Compute the probability of fewer than ``called`` plus half that of equality, mean over q."""
    if called <= FEW:
        # Term by term: an incomplete beta function takes as long as a dozen of them.
        others = np.maximum(1 - q, np.finfo(np.float64).eps)
        chance, fewer, odds = others**cells, np.zeros(len(q)), q / others
        for count in range(called):
            fewer += chance
            chance *= (cells - count) / (count + 1) * odds
        return float((fewer + 0.5 * chance).mean())
    logs = xlogy(called, q) + xlog1py(cells - called, -q)
    logs -= betaln(called + 1, cells - called + 1) + np.log(cells + 1)
    return float((bdtr(called - 1, cells, q) + 0.5 * np.exp(logs)).mean())


def _root(rises: Callable[[float], float], near: float) -> float:
    """Find the zero of a function that rises over [0, 1]: 0 if it is never below, 1 if never above.

    It is sought from ``near`` on. The relative tolerance is 1e-5, the absolute one 1e-10.
    """
    low, high = 0.0, min(max(near, 1e-6), 1.0)
    if rises(low) >= 0:
        return 0.0
    while rises(high) <= 0:
        if high == 1.0:
            return 1.0
        low, high = high, min(1.0, 4 * high)
    return float(brentq(rises, low, high, xtol=1e-10, rtol=1e-5))
