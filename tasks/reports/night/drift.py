"""Measure how unlike a night is to those before: p-values against uniform, and populations.

With 200,000 cells every deviation is significant, and cells of one patient depend on each other.
So a deviation counts when it is large (an effect size has a limit) and when the patients agree on
it (a test with patients, or slides where there are none, as clusters).

A p-value is the share of calibration images that are as abnormal, so the bins of p-values are bins
of the score with equal shares of the calibration set in each: the population stability index of
p-values against uniform is that of the score against the calibration.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.reports.night.batches import BINS
from tasks.types import Float

UNIFORM = np.full(BINS, 1.0 / BINS)
DRAWS = 999
DRAWS_AT_ONCE = 100


def signed_distance(counts: NDArray[np.integer], reference: Float = UNIFORM) -> float:
    """Compute the signed Kolmogorov-Smirnov distance of binned values (B,) from shares (B,).

    Positive where the low bins hold more than they should: with p-values, where images are more
    abnormal than they should be.
    """
    gaps = np.cumsum(counts / counts.sum() - reference)
    return float(gaps[np.argmax(np.abs(gaps))])


def clustered_p_value(clusters: NDArray[np.integer], reference: Float = UNIFORM) -> float:
    """Compute how probable so large a Kolmogorov-Smirnov distance is if only clusters vary.

    Every cluster's deviation from the reference is as likely to point the other way: signs are
    drawn at random for whole clusters (wild bootstrap; Liu 1988, Cameron, Gelbach & Miller 2008),
    999 times with a fixed seed. A single cluster proves nothing: its p-value is 1.

    Args:
        clusters: (K, B), how many values of each cluster fall into each bin.
        reference: (B,), the shares to compare with.
    """
    gaps = np.cumsum(clusters, axis=1) - clusters.sum(axis=1, keepdims=True) * np.cumsum(reference)
    # Rounding must not make the observed signs differ from the same signs when they are drawn.
    observed = np.abs(gaps.sum(axis=0)).max() * (1 - 1e-9)
    rng, reached, left = np.random.default_rng(0), 0, DRAWS
    while left:
        draws = min(left, DRAWS_AT_ONCE)
        signs = 2.0 * rng.integers(0, 2, (draws, len(clusters))) - 1.0
        reached += int((np.abs(signs @ gaps).max(axis=1) >= observed).sum())
        left -= draws
    return (1 + reached) / (1 + DRAWS)


def effective_clusters(clusters: NDArray[np.integer]) -> float:
    """Compute how many clusters of equal size say as much as these (Kish 1965)."""
    sizes = clusters.sum(axis=1).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def population_stability(counts: NDArray[np.integer], reference: NDArray[Any]) -> float:
    """Compute the population stability index of binned values (B,) against counts or shares (B,).

    It is sum (a - b) ln(a / b), Jeffreys' divergence. Counts have half an image added in every bin,
    so that an empty one does not make the index infinite.
    """

    def shares(values: NDArray[Any]) -> Float:
        added = 0.5 if np.issubdtype(values.dtype, np.integer) else 0.0
        return np.asarray((values + added) / (values + added).sum())

    a, b = shares(counts), shares(reference)
    return float(((a - b) * np.log(a / b)).sum())
