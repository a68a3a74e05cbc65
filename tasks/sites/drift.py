"""Tell whether a site's running normal has left the one that was commissioned.

A running normal that follows every night would follow a lamp that fades, too, until nothing is
abnormal. So it may move about the commissioned one by as much as slides differ, and no further.
"""

from collections.abc import Mapping

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.stats import chi2

from tasks.detector.groups import GroupStatistics
from tasks.detector.random_effects import residual_means
from tasks.detector.slide_distance import Prior
from tasks.types import Float

LEAST_P_VALUE = 0.01  # of a drift that is no chance; below it nothing is learned


def drift_p_value(
    priors: Mapping[str, Prior], commissioned: GroupStatistics, running: GroupStatistics
) -> float:
    """Compute the p-value of the difference between two sets of a site's nights, over all taps.

    All slides of a night share its stain and light, so a night counts as one slide, of however
    many cells: the mean shift of N nights varies as B / N. With the difference D of the mean
    shifts, T^2 = D^T B^-1 D / (1 / N_1 + 1 / N_2) is chi-squared with d degrees of freedom
    (Hotelling 1931), and the least p-value counts once for each tap (Bonferroni). However many
    nights there are, a running normal that passes is within about sqrt(1 / N_1) deviations of
    slides of the commissioned one in every direction.

    Args:
        priors: of the site's slides, as they were commissioned.
        commissioned: statistics of the commissioned nights.
        running: of the nights that were learned since, tonight's included.

    Raises:
        ValueError: one of the two has no night.
    """
    least = 1.0
    for tap, prior in priors.items():
        nights_1, mean_1 = _mean_shift(prior, commissioned, tap)
        nights_2, mean_2 = _mean_shift(prior, running, tap)
        factor = cholesky(prior.between, lower=True)
        white = solve_triangular(factor, mean_2 - mean_1, lower=True)
        t2 = float(white @ white) / (1 / nights_1 + 1 / nights_2)
        least = min(least, float(chi2.sf(t2, len(white))))
    return min(1.0, least * len(priors))


def _mean_shift(prior: Prior, statistics: GroupStatistics, tap: str) -> tuple[int, Float]:
    """Compute the number of nights, and the mean over nights of their mean shifts (d,)."""
    count, residuals = residual_means(statistics, tap, prior.means)
    weights = count / (count + prior.k)
    nights = np.asarray([key.batch for key in statistics.keys])
    names = np.unique(nights)
    if not len(names):
        raise ValueError("no night has a slide with a normal of its own")
    means = [
        weights[nights == name] @ residuals[nights == name] / weights[nights == name].sum()
        for name in names
    ]
    return len(names), np.asarray(np.mean(means, axis=0))
