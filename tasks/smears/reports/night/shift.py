"""Measure how much a night differs from earlier ones: p-values against uniform, populations.

With 200,000 cells every deviation is significant, and cells of one patient depend on each other. So
a deviation counts only if it is large (an effect size above a limit) and if the patients agree (a
test with patients, or slides without one, as clusters).

A p-value is the share of calibration images that are at least as abnormal, so bins of p-values are
bins of the score with equal shares of the calibration set: the population stability index of
p-values against uniform is the index of the score against the calibration.
"""

import numpy as np

from tasks.smears.reports.night.counts import BINS
from tasks.types import Array, Float, Integers

UNIFORM = np.full(BINS, 1.0 / BINS)
DRAWS = 999
DRAWS_AT_ONCE = 100


def signed_distance(counts: Integers) -> float:
    """Compute the signed Kolmogorov-Smirnov distance of binned p-values (BINS,) from uniform.

    Positive if the low bins hold too much, so that images are too abnormal.
    """
    gaps = np.cumsum(counts / counts.sum() - UNIFORM)
    return float(gaps[np.argmax(np.abs(gaps))])


def clustered_p_value(clusters: Integers) -> float:
    """Compute the p-value of a Kolmogorov-Smirnov distance if only clusters vary.

    Under the null hypothesis every cluster's deviation may as well point the other way: signs are
    drawn at random for whole clusters (wild bootstrap; Liu 1988, Cameron, Gelbach & Miller 2008),
    999 times with a fixed seed. A single cluster proves nothing: its p-value is 1.
    ``clusters`` (K, BINS) are the numbers of each cluster's p-values in each bin.
    """
    gaps = np.cumsum(clusters, axis=1) - clusters.sum(axis=1, keepdims=True) * np.cumsum(UNIFORM)
    # Rounding must not make the observed statistic exceed a draw of the same signs.
    observed = np.abs(gaps.sum(axis=0)).max() * (1 - 1e-9)
    rng, reached, left = np.random.default_rng(0), 0, DRAWS
    while left:
        draws = min(left, DRAWS_AT_ONCE)
        signs = 2.0 * rng.integers(0, 2, (draws, len(clusters))) - 1.0
        reached += int((np.abs(signs @ gaps).max(axis=1) >= observed).sum())
        left -= draws
    return (1 + reached) / (1 + DRAWS)


def effective_clusters(clusters: Integers) -> float:
    """Compute the effective number of clusters, as if of equal size (Kish 1965)."""
    sizes = clusters.sum(axis=1).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def population_stability(counts: Integers, reference: Array) -> float:
    """Compute the population stability index of binned values (B,) against counts or shares (B,).

    It is sum (a - b) ln(a / b), Jeffreys' divergence. Half an image is added to every bin of
    counts, so that an empty bin does not make the index infinite.
    """

    def shares(values: Array) -> Float:
        added = 0.5 if np.issubdtype(values.dtype, np.integer) else 0.0
        return np.asarray((values + added) / (values + added).sum())

    a, b = shares(counts), shares(reference)
    return float(((a - b) * np.log(a / b)).sum())
