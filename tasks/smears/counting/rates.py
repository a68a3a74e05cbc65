"""Predict the error rate of an unseen slide: a beta-binomial over slides with known cells.

The rate of slide s is Beta(m r, (1 - m) r), with mean m over slides and precision r, and its errors
are binomial (Skellam 1948). The prediction includes the uncertainty about m and r: they are
averaged over a grid, weighted by their likelihood and a weak prior: Jeffreys' for the mean, so that
no error among n cells does not mean a rate of zero, and uniform over orders of magnitude of the
precision.

For another laboratory the prior comes from fitted laboratories, with one more step: the log-odds of
a laboratory's mean are normal around theirs, and slides differ there as they do here.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import betainc, betaln, expit, logit

from tasks import bundles, types

NODES = 101  # equally probable rates that represent the prediction
MEANS = expit(np.linspace(logit(1e-5), logit(1 - 1e-5), 161))
PRECISIONS = np.exp(np.linspace(np.log(2.0), np.log(2e4), 40))
ALPHA, BETA = MEANS[:, None] * PRECISIONS, (1 - MEANS[:, None]) * PRECISIONS  # (M, R) each
RATES = expit(np.linspace(logit(1e-7), logit(1 - 1e-7), 240))
LEAST_WEIGHT = 1e-4  # of a mean and precision, relative to the likeliest
# The standard deviation between laboratories of a mean's log-odds. Three laboratories are too few
# for an estimate: from the first to two others the false-positive rate changed by -0.2 to 2.1, and
# the sensitivity by -1.6 to -2.6.
LABORATORIES = 1.5
# The same of sure parasites among healthy cells: of seven laboratories left out it is .9, chance
# taken out.
OF_SURE = 1.0


@dataclass(frozen=True)
class Rate(bundles.Bundle):
    """A rate that varies between slides.

    ``mean`` and ``deviation`` are over slides, with the bounds of the mean's 95% interval;
    ``nodes`` (NODES,) are equally probable quantiles of the rate of an unseen slide.
    """

    mean: float
    low: float
    high: float
    deviation: float
    slides: int
    cells: int
    nodes: types.Float

    @property
    def median(self) -> float:
        """Return the rate that half of all unseen slides stay below."""
        return float(self.nodes[NODES // 2])


def predict_rate(hits: types.Counts, cells: types.Counts, prior: types.Float | None = None) -> Rate:
    """Predict the rate of an unseen slide from slides with known cells.

    ``hits`` (S,) of the ``cells`` (S,) of each slide pass the threshold; slides without cells are
    left out. The ``prior`` (M, R) is a `laboratory_prior`, by default the weak one.

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


def laboratory_prior(
    hits: types.Counts, cells: types.Counts, apart: float = LABORATORIES
) -> types.Float:
    """Compute weights of every mean and precision (M, R) of another laboratory from these slides.

    ``hits`` and ``cells`` (S,) are of slides of fitted laboratories, as in `predict_rate`;
    laboratories are ``apart`` by this deviation of log-odds.
    """
    weights = _posterior(hits[cells > 0], cells[cells > 0], None)
    moved = np.exp(-0.5 * (np.subtract.outer(logit(MEANS), logit(MEANS)) / apart) ** 2)
    return np.asarray((moved / moved.sum(axis=0)) @ weights)


def _posterior(hits: types.Counts, cells: types.Counts, prior: types.Float | None) -> types.Float:
    """Compute weights, of sum 1, of every mean and precision (M, R) from likelihood and prior."""
    if prior is None:
        # Jeffreys' prior of the mean, on a grid that is uniform in its log-odds.
        log = np.broadcast_to(0.5 * np.log(MEANS * (1 - MEANS))[:, None], ALPHA.shape).copy()
    else:
        log = np.log(np.maximum(prior, np.finfo(float).tiny))
    # Slides with equal counts are computed together: there are hundreds of a dozen cells.
    pairs, slides = np.unique(np.stack([hits, cells]), axis=1, return_counts=True)
    for k, n, times in zip(*pairs.tolist(), slides.tolist(), strict=True):
        log += times * (betaln(ALPHA + k, BETA + n - k) - betaln(ALPHA, BETA))
    weights = np.exp(log - log.max())
    return np.asarray(weights / weights.sum())


def _quantiles(weights: types.Float) -> types.Float:
    """Find the quantiles of a mixture of betas, at the middles of NODES equal shares."""
    kept, shares = weights > weights.max() * LEAST_WEIGHT, _shares_below()
    new = kept & np.isnan(shares[0])
    shares[:, new] = betainc(ALPHA[new], BETA[new], RATES[:, None])
    below = shares[:, kept] @ (weights[kept] / weights[kept].sum())
    middles = (np.arange(NODES) + 0.5) / NODES
    return np.asarray(expit(np.interp(middles, below, logit(RATES))))


@cache
def _shares_below() -> types.Float:
    """Return the shares of betas below each of `RATES`, (RATES, M, R); NaN until one is needed."""
    return np.full((len(RATES), *ALPHA.shape), np.nan)
