"""Turn distances at several taps into one abnormality score and a conformal p-value.

Every tap's log distance is standardised by its mean and deviation over calibration images, and an
image has the score of its most deviating tap. Calibration images are scored by statistics
from which their own patient was taken out, and every patient weighs the same (hierarchical
conformal prediction: Dunn, Wasserman & Ramdas 2018; Lee, Barber & Willett 2023).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import Moments, moments, retract
from tasks.types import Float

# Distances that agree to nine digits do not vary: what is left of their deviation is rounding.
LEAST_DEVIATION = 1e-9


@dataclass(frozen=True)
class Calibration:
    """Hold what turns log distances into scores and p-values.

    ``mean`` and ``deviation`` are (T,), one for each tap; ``scores`` (n,) are the calibration
    images' fused scores in rising order and ``weights`` (n,) theirs, summing to 1.
    """

    mean: Float
    deviation: Float
    scores: Float
    weights: Float


def log_distance(distances: Float) -> Float:
    """Compute the logarithm of squared distances, finite also where they are 0 or infinite."""
    limits = np.finfo(np.float64)
    return np.log(np.clip(distances, limits.tiny, limits.max))


def leave_group_out(
    total: Moments, features: NDArray[np.floating], labels: NDArray[np.integer]
) -> Float:
    """Compute log distances (n,) of a group's own images under statistics without that group.

    Args:
        total: statistics of all groups together, this one included.
        features: (n, d), of the group's images.
        labels: (n,), their classes.
    """
    others = retract(total, moments(features, labels, total.classes))
    return log_distance(nearest_class_distance(tied_gaussian(others), features))


def calibrate(log_distances: Float, groups: NDArray[np.integer]) -> Calibration:
    """Calibrate on log distances (n, T) of images whose groups are given by ``groups`` (n,).

    Raises:
        ValueError: there are no images.
    """
    if not len(log_distances):
        raise ValueError("no images to calibrate on")
    weights = group_weights(groups)
    mean = weights @ log_distances
    deviation = np.sqrt(weights @ (log_distances - mean) ** 2)
    # A tap that never varies says nothing; dividing by 1 makes its deviations 0 and not infinite.
    deviation = np.where(deviation > LEAST_DEVIATION, deviation, 1.0)
    scores = fuse((log_distances - mean) / deviation)
    order = np.argsort(scores, kind="stable")
    return Calibration(mean, deviation, scores[order], weights[order])


def group_weights(groups: NDArray[np.integer]) -> Float:
    """Compute weights (n,) that sum to 1 and give every group the same total."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(counts) * counts[index]))


def fuse(deviations: Float) -> Float:
    """Fuse the taps' standardised log distances (n, T) into one score (n,): the largest."""
    return np.asarray(deviations.max(axis=1))


def standardised(calibration: Calibration, log_distances: Float) -> Float:
    """Compute by how many deviations log distances (n, T) exceed those of calibration images."""
    return np.asarray((log_distances - calibration.mean) / calibration.deviation)


def abnormality(calibration: Calibration, log_distances: Float) -> Float:
    """Compute the fused score (n,) of log distances (n, T): higher is more abnormal."""
    return fuse(standardised(calibration, log_distances))


def p_values(calibration: Calibration, scores: Float) -> Float:
    """Compute conformal p-values (n,): (1 + weighted count of calibration scores >= s) / (n + 1).

    With n images of K patients the level is approximate in K: on average over patients it is at
    most alpha + (1 - alpha) / (K + 1). Counting patients in place of images would make it exact,
    and any alpha below 1 / (K + 1) unreachable.
    """
    n = len(calibration.scores)
    # Summed from the top, so that beyond every calibration score p is 1 / (n + 1) to the last bit.
    above = np.concatenate([np.cumsum(calibration.weights[::-1])[::-1], [0.0]])
    reached = above[np.searchsorted(calibration.scores, scores, side="left")]
    return np.asarray(np.clip((1.0 + n * reached) / (n + 1.0), 0.0, 1.0))


def threshold(calibration: Calibration, alpha: float) -> float:
    """Compute the least abnormality at which an image is abnormal: its p-value is at most alpha.

    It lies just above a calibration score; infinite where no p-value is so low.
    """
    if 1.0 / (len(calibration.scores) + 1.0) > alpha:
        return float("inf")
    ordinary = calibration.scores[p_values(calibration, calibration.scores) > alpha]
    return float(np.nextafter(ordinary[-1], np.inf)) if len(ordinary) else float("-inf")
