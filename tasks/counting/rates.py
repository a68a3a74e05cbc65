"""Predict the error rate of a slide not seen: a beta-binomial over slides whose cells are known.

The rate of slide s is Beta(m r, (1 - m) r), of mean m over slides and precision r, and its errors
are binomial (Skellam 1948). How far m and r are known from few slides is part of the prediction:
they are averaged over a grid, weighed by their likelihood and by a weak prior: Jeffreys' for the
mean, so that no error among n cells is not a rate of zero, and the same for every order of the
precision.

At a laboratory of its own the prior is what fitted laboratories tell, with one step between: the
log-odds of a laboratory's mean are normal around theirs, and slides differ there as they do here. A
laboratory without a slide whose cells are known has that prediction, wide as it is; its first
slides say most of its mean, and many slides say also how they differ.
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
# The standard deviation between laboratories of a mean's log-odds. Three laboratories tell it too
# badly for an estimate: from the first to two others the false-positive rate has changed by -0.2 to
# 2.1, and the sensitivity by -1.6 to -2.6 (`method.md`, "A diagnosis that travels").
LABORATORIES = 1.5


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


def predict_rate(
    hits: NDArray[np.int64], cells: NDArray[np.int64], prior: Float | None = None
) -> Rate:
    """Predict the rate of a slide not seen from slides whose cells are known.

    Args:
        hits: (S,), how many cells of each slide pass the threshold.
        cells: (S,), how many it has; slides without cells are left out.
        prior: (M, R), the weights of `laboratory_prior`, by default the weak prior.

    Raises:
        ValueError: there is no slide with cells, and no prior.
    """
    hits, cells = hits[cells > 0], cells[cells > 0]
    if not len(cells) and prior is None:
        raise ValueError("no slide has cells whose kind is known")
    weights = _posterior(hits, cells, prior)
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


def laboratory_prior(hits: NDArray[np.int64], cells: NDArray[np.int64]) -> Float:
    """Weigh every mean and precision (M, R) of another laboratory by what these slides tell.

    Args:
        hits: (S,), as in `predict_rate`, of slides of fitted laboratories.
        cells: (S,), likewise.
    """
    weights = _posterior(hits[cells > 0], cells[cells > 0], None)
    apart = np.subtract.outer(logit(MEANS), logit(MEANS)) / LABORATORIES
    moved = np.exp(-0.5 * apart**2)
    return np.asarray((moved / moved.sum(axis=0)) @ weights)


def _posterior(hits: NDArray[np.int64], cells: NDArray[np.int64], prior: Float | None) -> Float:
    """Weigh every mean and precision (M, R) by likelihood and prior; the weights sum to 1."""
    a = MEANS[:, None] * PRECISIONS
    b = (1 - MEANS[:, None]) * PRECISIONS
    if prior is None:
        # Jeffreys' prior of the mean, on a grid that is even in its log-odds.
        log = np.broadcast_to(0.5 * np.log(MEANS * (1 - MEANS))[:, None], a.shape).copy()
    else:
        log = np.log(np.maximum(prior, np.finfo(float).tiny))
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
