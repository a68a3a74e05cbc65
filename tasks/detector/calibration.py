"""Turn distances at several taps into one abnormality score and a conformal p-value.

Every tap's log distance is standardised by its mean and deviation over calibration images; an
image's score is that of its most deviating tap. Calibration images are scored by statistics from
which their own patient was taken out, and every patient weighs the same (hierarchical conformal
prediction: Dunn, Wasserman & Ramdas 2018; Lee, Barber & Willett 2023).
"""

from dataclasses import dataclass

import numpy as np

from tasks import bundles, types
from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import Moments, moments, retract

# Distances that agree to nine digits do not vary: their deviation is rounding.
LEAST_DEVIATION = 1e-9


@dataclass(frozen=True)
class Calibration(bundles.Bundle):
    """``mean`` and ``deviation`` (T,) of log distances by tap, and the calibration images' scores.

    The fused ``scores`` (n,) are in ascending order; their ``weights`` (n,) sum to 1.
    """

    mean: types.Float
    deviation: types.Float
    scores: types.Float
    weights: types.Float


def log_distance(distances: types.Float) -> types.Float:
    """Compute the logarithm of squared distances; it is finite even for 0 or infinity."""
    limits = np.finfo(np.float64)
    return np.log(np.clip(distances, limits.tiny, limits.max))


def leave_group_out(total: Moments, features: types.Numbers, labels: types.Integers) -> types.Float:
    """Compute log distances (n,) of a group's images under the ``total`` without this group."""
    others = retract(total, moments(features, labels, total.classes))
    return log_distance(nearest_class_distance(tied_gaussian(others), features))


def calibrate(
    log_distances: types.Float, groups: types.Integers, laboratories: types.Texts | None = None
) -> Calibration:
    """Calibrate on log distances (n, T) of images, n >= 1, weighted as in `group_weights`."""
    weights = group_weights(groups, laboratories)
    mean = weights @ log_distances
    deviation = np.sqrt(weights @ (log_distances - mean) ** 2)
    # A tap that never varies is divided by 1, so that its deviations are 0 and not infinite.
    deviation = np.where(deviation > LEAST_DEVIATION, deviation, 1.0)
    scores = fuse((log_distances - mean) / deviation)
    order = np.argsort(scores, kind="stable")
    return Calibration(mean, deviation, scores[order], weights[order])


def group_weights(groups: types.Array, laboratories: types.Texts | None = None) -> types.Float:
    """Compute weights (n,) that sum to 1 and give every group the same total.

    Of several laboratories (n,) each has the same total, and so has every group of one.
    """
    _, first, index, counts = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    of_group = np.full(len(counts), 1.0 / len(counts))
    if laboratories is not None:
        of_group = group_weights(laboratories[first])
    return np.asarray(of_group[index] / counts[index])


def fuse(deviations: types.Float) -> types.Float:
    """Fuse the taps' standardised log distances (n, T) into one score (n,): the largest."""
    return np.asarray(deviations.max(axis=1))


def standardised(calibration: Calibration, log_distances: types.Float) -> types.Float:
    """Compute how many deviations log distances (n, T) are above the calibration mean."""
    return np.asarray((log_distances - calibration.mean) / calibration.deviation)


def abnormality(calibration: Calibration, log_distances: types.Float) -> types.Float:
    """Compute the fused score (n,) of log distances (n, T): higher is more abnormal."""
    return fuse(standardised(calibration, log_distances))


def p_values(calibration: Calibration, scores: types.Float) -> types.Float:
    """Compute conformal p-values (n,): (1 + weighted count of calibration scores >= s) / (n + 1).

    With n images of K patients, the level is at most alpha + (1 - alpha) / (K + 1) on average over
    patients. Counting patients would make it exact, but no alpha below 1 / (K + 1) possible.
    """
    n = len(calibration.scores)
    # Summed from the top, so that p is exactly 1 / (n + 1) above every calibration score.
    above = np.concatenate([np.cumsum(calibration.weights[::-1])[::-1], [0.0]])
    reached = above[np.searchsorted(calibration.scores, scores, side="left")]
    return np.asarray(np.clip((1.0 + n * reached) / (n + 1.0), 0.0, 1.0))


def threshold(calibration: Calibration, alpha: float) -> float:
    """Compute the least abnormality whose p-value is at most alpha; infinite if there is none."""
    if 1.0 / (len(calibration.scores) + 1.0) > alpha:
        return float("inf")
    ordinary = calibration.scores[p_values(calibration, calibration.scores) > alpha]
    return float(np.nextafter(ordinary[-1], np.inf)) if len(ordinary) else float("-inf")
