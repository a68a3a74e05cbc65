"""Predict the error rate of a slide not seen: a beta-binomial over slides whose cells are known.

The rate of slide s is Beta(m r, (1 - m) r), of mean m over slides and precision r, and its errors
are binomial (Skellam 1948). How far m and r are known from few slides is part of the prediction:
they are averaged over a grid, weighed by their likelihood and by a weak prior: Jeffreys' for the
mean, so that no error among n cells is not a rate of zero, and the same for every order of the
precision.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, expit, logit

from tasks.types import Arrays, Float

NODES = 101  # equally probable rates that stand for the prediction
MEANS = expit(np.linspace(logit(1e-5), logit(1 - 1e-5), 161))
PRECISIONS = np.exp(np.linspace(np.log(2.0), np.log(2e4), 40))
RATES = expit(np.linspace(logit(1e-7), logit(1 - 1e-7), 240))
LEAST_WEIGHT = 1e-4  # of a mean and precision, in the likeliest one's


@dataclass(frozen=True)
class Rate:
    """Hold a rate that varies between slides.

    ``mean`` and ``deviation`` are those between slides, with the bounds of the mean's 95%
    interval; ``nodes`` (NODES,) are quantiles of the rate of a slide not seen, all as probable.
    """

    mean: float
    low: float
    high: float
    deviation: float
    slides: int
    cells: int
    nodes: Float

    @property
    def median(self) -> float:
        """Return the rate that half of all slides not seen stay below."""
        return float(self.nodes[NODES // 2])

    def to_arrays(self) -> Arrays:
        """Name the arrays, for keeping."""
        figures = (self.mean, self.low, self.high, self.deviation, self.slides, self.cells)
        return {"figures": np.asarray(figures, np.float64), "nodes": self.nodes}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Rate":
        """Read a rate back from `to_arrays`."""
        mean, low, high, deviation, slides, cells = arrays["figures"].tolist()
        return cls(mean, low, high, deviation, int(slides), int(cells), arrays["nodes"])


def predict_rate(hits: NDArray[np.int64], cells: NDArray[np.int64]) -> Rate:
    """Predict the rate of a slide not seen from slides whose cells are known.

    Args:
        hits: (S,), how many cells of each slide pass the threshold.
        cells: (S,), how many it has; slides without cells are left out.

    Raises:
        ValueError: there is no slide with cells.
    """
    hits, cells = hits[cells > 0], cells[cells > 0]
    if not len(cells):
        raise ValueError("no slide has cells whose kind is known")
    weights = _posterior(hits.astype(np.float64), cells.astype(np.float64))
    by_mean = weights.sum(axis=1)
    low, high = np.interp([0.025, 0.975], np.cumsum(by_mean), MEANS)
    mean = float(by_mean @ MEANS)
    variance = MEANS[:, None] * (1 - MEANS[:, None]) / (1 + PRECISIONS)
    return Rate(
        mean=mean,
        low=float(low),
        high=float(high),
        deviation=float(np.sqrt((weights * variance).sum())),
        slides=len(cells),
        cells=int(cells.sum()),
        nodes=_quantiles(weights),
    )


def _posterior(hits: Float, cells: Float) -> Float:
    """Weigh every mean and precision (M, R) by likelihood and prior; the weights sum to 1."""
    a = MEANS[:, None] * PRECISIONS
    b = (1 - MEANS[:, None]) * PRECISIONS
    # Jeffreys' prior of the mean, on a grid that is even in its log-odds.
    log = np.broadcast_to(0.5 * np.log(MEANS * (1 - MEANS))[:, None], a.shape).copy()
    for k, n in zip(hits.tolist(), cells.tolist(), strict=True):
        log += betaln(a + k, b + n - k) - betaln(a, b)
    weights = np.exp(log - log.max())
    return np.asarray(weights / weights.sum())


def _quantiles(weights: Float) -> Float:
    """Find the quantiles of a mixture of betas, at the middles of NODES equal shares."""
    kept = weights > weights.max() * LEAST_WEIGHT
    a = (MEANS[:, None] * PRECISIONS)[kept]
    b = ((1 - MEANS[:, None]) * PRECISIONS)[kept]
    below = betainc(a, b, RATES[:, None]) @ (weights[kept] / weights[kept].sum())
    middles = (np.arange(NODES) + 0.5) / NODES
    return np.asarray(expit(np.interp(middles, below, logit(RATES))))
