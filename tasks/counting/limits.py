"""Compute what a count of parasites says of a slide, with the errors of both rates.

Of n red cells k are called parasitized. With parasitaemia x each is so with the probability
q = x s + (1 - x) f, where the slide's sensitivity s and false-positive rate f are not known but
predicted (`tasks.counting.rates`): k is a mixture of binomials over their nodes. The interval is
where neither so many nor so few are improbable; the limit of blank is what 95% of slides without
parasites stay at or below, the limit of detection the least parasitaemia of which 95% of slides are
above it (Armbruster & Pry 2008; CLSI EP17).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaln, xlog1py, xlogy

from tasks.counting.rates import NODES, Rate
from tasks.types import Arrays, Float, below, nested

LEVEL = 0.95
TURNS = 3  # how often each false-positive rate meets another sensitivity
MOST_CELLS = 10_000_000
# A parasitaemia from which on parasites are many: false positives of a lower threshold, of which
# some slides have none and others a few in a hundred, matter less there than what it finds more.
DENSE = 0.05


@dataclass(frozen=True)
class ErrorRates:
    """Hold the error rates of a counting threshold, ``log_odds`` of "parasitized"."""

    log_odds: float
    false: Rate
    found: Rate

    def to_arrays(self) -> Arrays:
        """Name the arrays, for keeping."""
        return {
            "log_odds": np.asarray([self.log_odds]),
            **nested("false", self.false.to_arrays()),
            **nested("found", self.found.to_arrays()),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "ErrorRates":
        """Read rates back from `to_arrays`."""
        false, found = (Rate.from_arrays(below(name, arrays)) for name in ("false", "found"))
        return cls(float(arrays["log_odds"][0]), false, found)

    @property
    def tell(self) -> bool:
        """Tell whether more parasites are called than healthy cells, so that a count says much."""
        return self.found.median > self.false.median

    def joint(self) -> tuple[Float, Float]:
        """Pair nodes of both rates, (J,) each, as if independent; all pairs are as probable."""
        order = np.arange(NODES)
        # Steps without a divisor of NODES visit every sensitivity, each turn in another order.
        steps = (37, 61, 89)[:TURNS]
        found = np.concatenate([self.found.nodes[order * step % NODES] for step in steps])
        return np.tile(self.false.nodes, TURNS), found


@dataclass(frozen=True)
class KnownRates:
    """Hold the error rates of the thresholds that count: one for few parasites, one for many.

    Few parasites are told from none by ``counting``. Many are counted better by ``dense``, a lower
    threshold, which misses fewer, so that patients differ less in how many they hide from it.
    """

    counting: ErrorRates
    dense: ErrorRates

    def to_arrays(self) -> Arrays:
        """Name the arrays, for keeping."""
        counting, dense = self.counting.to_arrays(), self.dense.to_arrays()
        return nested("counting", counting) | nested("dense", dense)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "KnownRates":
        """Read rates back from `to_arrays`."""
        return cls(*(ErrorRates.from_arrays(below(name, arrays)) for name in ("counting", "dense")))


def corrected(called: int, cells: int, rates: ErrorRates) -> float:
    """Correct the called share for both error rates, within [0, 1] (Rogan & Gladen 1978).

    The rates are the medians between slides: they are skewed, and their means are those of a few
    slides that make most errors.
    """
    if not rates.tell:
        return float("nan")
    false, found = rates.false.median, rates.found.median
    return float(np.clip((called / cells - false) / (found - false), 0.0, 1.0))


def interval(called: int, cells: int, rates: ErrorRates) -> tuple[float, float]:
    """Compute the 95% interval of the parasitaemia, a share in [0, 1].

    It holds those of which neither ``called`` cells or more, nor as many or fewer, have a
    probability below 2.5%; ``called`` itself counts half, so that it is not too wide (mid-p,
    Lancaster 1961). As the rates are those of a slide not seen, it carries the chance of counting,
    the variation of both rates between slides, and how far these are known.
    """
    tail = (1 - LEVEL) / 2
    return _bound(called, cells, rates, tail), _bound(called, cells, rates, 1 - tail)


def upper_bound(called: int, cells: int, rates: ErrorRates) -> float:
    """Compute the one-sided 95% upper bound of the parasitaemia, a share."""
    return _bound(called, cells, rates, LEVEL)


def _bound(called: int, cells: int, rates: ErrorRates, level: float) -> float:
    """Find the parasitaemia with which more than ``called`` cells have a probability of a level."""
    false, found = rates.joint()
    return _root(lambda x: _more(called, cells, x, false, found) - level)


def expected_width(rates: ErrorRates, share: float, cells: int) -> float:
    """Compute how wide the interval is of a slide that is counted as its parasitaemia expects."""
    expected = share * rates.found.mean + (1 - share) * rates.false.mean
    low, high = interval(round(expected * cells), cells, rates)
    return high - low


def chance_of_blank(called: int, cells: int, rates: ErrorRates) -> float:
    """Compute the probability that a slide without parasites has ``called`` cells or more."""
    return _at_least(called, cells, rates.false.nodes)


def blank_count(cells: int, rates: ErrorRates) -> int:
    """Compute the limit of blank: what 95% of slides of so many cells without parasites stay at."""
    false, _ = rates.joint()
    low, high = -1, cells
    while high - low > 1:
        middle = (low + high) // 2
        if _at_least(middle + 1, cells, false) <= 1 - LEVEL:
            high = middle
        else:
            low = middle
    return high


def detection_limit(cells: int, rates: ErrorRates) -> float | None:
    """Compute the limit of detection of so many cells, a share; None where all is too little."""
    if cells < 1:
        return None
    false, found = rates.joint()
    count = blank_count(cells, rates) + 1

    def seen(x: float) -> float:
        return _at_least(count, cells, x * found + (1 - x) * false) - LEVEL

    return _root(seen) if count <= cells and seen(1.0) >= 0 else None


def cells_needed(limit: float, rates: ErrorRates) -> int | None:
    """Compute how many cells have a limit of detection; None where no number has it.

    Where slides differ in their false-positive rate, more cells of one slide help only so far.
    """
    low, high = 1, MOST_CELLS
    most = detection_limit(high, rates)
    if most is None or most > limit:
        return None
    while high > 1.01 * low + 1:
        middle = round((low * high) ** 0.5) if low > 1 else round(high**0.5)
        middle = min(max(middle, low + 1), high - 1)
        found = detection_limit(middle, rates)
        low, high = (low, middle) if found is not None and found <= limit else (middle, high)
    return high


def _at_least(count: int, cells: int, q: Float) -> float:
    """Compute the probability of ``count`` or more of so many, mean over q (J,)."""
    if count <= 0:
        return 1.0
    if count > cells:
        return 0.0
    return float(betainc(count, cells - count + 1, q).mean())


def _more(called: int, cells: int, x: float, false: Float, found: Float) -> float:
    """Compute the probability of more than ``called``, and half that of as many."""
    q = x * found + (1 - x) * false
    logs = xlogy(called, q) + xlog1py(cells - called, -q)
    logs -= betaln(called + 1, cells - called + 1) + np.log(cells + 1)
    return _at_least(called + 1, cells, q) + 0.5 * float(np.exp(logs).mean())


def _root(rises: Callable[[float], float]) -> float:
    """Find where a function that rises over [0, 1] is zero: 0 where it never is less, 1 if never.

    It is found to a ten-millionth of the share, and to 1e-10.
    """
    if rises(0.0) >= 0:
        return 0.0
    if rises(1.0) <= 0:
        return 1.0
    return float(brentq(rises, 0.0, 1.0, xtol=1e-10, rtol=1e-7))
