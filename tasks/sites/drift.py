"""Test whether a site's running normal has drifted from the commissioned one.

A running normal that follows every night would also follow a fading lamp, until nothing is
abnormal. So it may vary around the commissioned one as slides differ, but may not move steadily.

All slides of a night share its stain and light, so a night counts as one slide with any number of
cells: its mean shift varies as B. Two contrasts of nights are tested at each tap. The *difference*
of the mean shifts of N1 commissioned and N2 learned nights varies as B (1 / N1 + 1 / N2). From the
third learned night on, the *slope* of their shifts in the order of the nights varies as B / sum (t
- mean t)^2; nightly steps that are too small for the difference add up there.

A site's B is estimated from its own slides and from the population's B. In directions that few
slides do not span it is too small, and ordinary nights would look far away. So, after whitening by
the population's B, eigenvalues below their mean are raised to it. On 41 NIH patients, with 20 or 35
of them commissioned and another one as tonight, false alarms fall from 14% and 25% to 1% and 2%.

Each contrast is tested in two ways, of which the smaller p-value counts (Bonferroni). Its squared
length after whitening by B is chi-squared with d degrees of freedom (Hotelling 1931), whatever its
direction. That has little power along one direction among many, so its components along some
directions are tested too, each as a normal deviation (a union-intersection test: Roy 1953): along
each feature, along the directions in which slides differ more than cells, and between classes. The
directions come from the population; along a sample's own directions it would seem to vary too
little.

The table gives the distance of learned nights, in deviations of slides, at which tonight is refused
nine times in ten, at taps of 40 and 80 features: along a tested direction, and in brackets along
any other one. Nights that are *apart* are all equally far from the commissioned ones; *drifting*
nights move evenly from the commissioned normal to that distance.

    N1   N2   apart          drifting
     1    1    8.0 (10.0)     8.0 (10.0)
     1   10    6.0 ( 8.0)     6.0 ( 7.5)
     1   30    6.0 ( 7.5)     3.5 ( 5.0)
     3    1    6.5 ( 8.5)     6.0 ( 8.0)
     3   10    4.0 ( 5.0)     5.5 ( 7.5)
     3   30    3.5 ( 4.5)     4.0 ( 5.0)
    10    1    6.0 ( 7.5)     6.0 ( 7.5)
    10   10    2.5 ( 3.5)     4.5 ( 6.0)
    10   30    2.0 ( 3.0)     3.5 ( 4.5)

With one commissioned night no test can be more sensitive: that night's own shift is one deviation
in each direction. Commission several nights before a site learns.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular
from scipy.special import chdtrc, ndtr

from tasks.detector.slides.distance import Prior
from tasks.detector.slides.groups import GroupStatistics
from tasks.detector.slides.random_effects import residual_means
from tasks.types import Float

LEAST_P_VALUE = 0.01  # that may be chance; below it nothing is learned
LEAST_SLOPE = 3  # nights that a slope needs


def drift_p_value(
    priors: Mapping[str, Prior],
    commissioned: GroupStatistics,
    running: Sequence[GroupStatistics],
    population: Mapping[str, Prior],
) -> float:
    """Compute the p-value of a drift of a site's nights over all taps and contrasts.

    ``running`` are statistics of each night learned since commissioning, in order, tonight's last;
    ``population`` are priors of fitted slides.

    Raises:
        ValueError: there is no commissioned or no learned night.
    """
    found: list[float] = []
    for tap, prior in priors.items():
        fixed = _night_shifts(prior, commissioned, tap)
        shifts = [_night_shifts(prior, night, tap) for night in running]
        recent = np.concatenate([fixed[:0], *shifts])
        if not len(fixed) or not len(recent):
            raise ValueError("no night has a slide with a normal of its own")
        between = _levelled(prior.between, population[tap].between)
        factor = cholesky(between, lower=True)
        directions = _directions(population[tap])
        deviation = np.sqrt(np.einsum("md,de,me->m", directions, between, directions))
        for contrast in _contrasts(fixed, recent):
            white = np.asarray(solve_triangular(factor, contrast, lower=True))
            found.append(float(chdtrc(len(white), white @ white)))
            largest = float(np.abs(directions @ contrast / deviation).max())
            found.append(len(directions) * 2 * float(ndtr(-largest)))
    return min(1.0, min(found) * len(found))


def _levelled(between: Float, population: Float) -> Float:
    """Raise the eigenvalues of B (d, d) to at least their mean, after whitening by the
    population's.
    """
    factor = cholesky(population, lower=True)
    half = solve_triangular(factor, between, lower=True)
    white = solve_triangular(factor, half.T, lower=True)
    values, vectors = np.linalg.eigh((white + white.T) / 2)
    back = factor @ vectors
    return np.asarray((back * np.maximum(values, values.mean())) @ back.T)


def _contrasts(fixed: Float, recent: Float) -> Iterator[Float]:
    """Yield contrasts (d,) of shifts of nights (N, d) that vary as B if nothing drifts."""
    difference = recent.mean(axis=0) - fixed.mean(axis=0)
    yield difference / np.sqrt(1 / len(fixed) + 1 / len(recent))
    if len(recent) >= LEAST_SLOPE:
        time = np.arange(len(recent)) - (len(recent) - 1) / 2
        yield time @ recent / np.sqrt(time @ time)


def _directions(population: Prior) -> Float:
    """Compute rows (m, d) that detect shifts along directions when multiplied by contrasts.

    For a shift along a, the row is a^T B^-1 (the matched filter).
    """
    _, differing = eigh(population.between, population.within)
    have = population.means[~np.isnan(population.means[:, 0])]
    to_class = have[1:] - have[:1]
    to_class = to_class[to_class.any(axis=1)]
    along = np.concatenate([np.eye(len(differing)), (population.within @ differing).T, to_class])
    return np.asarray(cho_solve((cholesky(population.between, lower=True), True), along.T).T)


def _night_shifts(prior: Prior, statistics: GroupStatistics, tap: str) -> Float:
    """Compute the mean shift of each night (N, d), over its slides."""
    count, residuals = residual_means(statistics, tap, prior.means)
    weights = count / (count + prior.k)
    nights = np.asarray([key.batch for key in statistics.keys])
    means = [
        weights[nights == name] @ residuals[nights == name] / weights[nights == name].sum()
        for name in np.unique(nights)
    ]
    return np.asarray(means).reshape(len(means), len(prior.within))
