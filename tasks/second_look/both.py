"""Score by distance and second look together: an attack is abnormal, noise of its size is not.

Noise makes an image as distant as an attack does, and an attack in one small step leaves a weak
diagnosis that does not depend on detail that a blur could remove. So three scores are summed, each
standardised on ordinary images, clean and with noise of several sizes: the distance; the doubt
after a blur; and how unusual log-odds, distances and their changes under filters are together. No
attack is needed to fit any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.bundles import Bundle
from tasks.detector.calibration import Calibration, abnormality, calibrate, log_distance
from tasks.second_look.stability import log_odds, losses
from tasks.types import Float

RIDGE = 1e-3  # of each variance


@dataclass(frozen=True)
class Seen:
    """The results of both looks at n images.

    ``logits`` (n, C); ``filtered`` (n, F, C) logits under each filter, the blur first;
    ``distances`` (n, 1 + F, T) log distances of the image, and under each filter.
    """

    logits: NDArray[np.floating]
    filtered: NDArray[np.floating]
    distances: Float

    @property
    def losses(self) -> Float:
        """Compute the losses (n, F) of the diagnosis under the filters."""
        return losses(self.logits, self.filtered)

    @property
    def doubt(self) -> Float:
        """Compute minus the log-odds (n,) of the diagnosis after a blur."""
        diagnosed = np.asarray(self.logits).argmax(axis=1)
        return -log_odds(self.filtered[:, 0], diagnosed)

    @property
    def vectors(self) -> Float:
        """Join log-odds, losses, distances and their changes under filters, (n, d)."""
        diagnosed = np.asarray(self.logits).argmax(axis=1)
        first = self.distances[:, 0]
        changes = (self.distances[:, 1:] - first[:, np.newaxis]).reshape(len(first), -1)
        odds = log_odds(self.logits, diagnosed)[:, np.newaxis]
        return np.hstack([odds, self.losses, first, changes])


@dataclass(frozen=True)
class Ordinary(Bundle):
    """The ordinary results under K conditions: clean, and with noise of several sizes.

    ``means`` (K, d) and ``precisions`` (K, d, d) are of `Seen.vectors`; calibrations are of the
    stability, the distance, the doubt after a blur and the joint score, over all conditions.
    """

    means: Float
    precisions: Float
    stability: Calibration
    distance: Calibration
    doubt: Calibration
    joint: Calibration


def fit_ordinary(conditions: Sequence[Seen], groups: Sequence[NDArray[np.integer]]) -> Ordinary:
    """Learn the ordinary results.

    ``groups`` are the patients of the images (n,) under each condition.
    """
    vectors = [seen.vectors for seen in conditions]
    means = np.stack([each.mean(axis=0) for each in vectors])
    precisions = np.stack([_precision(each) for each in vectors])
    everyone = np.concatenate(groups)

    def calibrated(columns: Sequence[Float]) -> Calibration:
        return calibrate(np.concatenate(columns), everyone)

    return Ordinary(
        means,
        precisions,
        stability=calibrated([seen.losses for seen in conditions]),
        distance=calibrated([seen.distances[:, 0] for seen in conditions]),
        doubt=calibrated([seen.doubt[:, np.newaxis] for seen in conditions]),
        joint=calibrated([_unusual(means, precisions, each)[:, np.newaxis] for each in vectors]),
    )


def stability_score(ordinary: Ordinary, seen: Seen) -> Float:
    """Compute only the stability (n,), as in a report: higher is less stable."""
    return abnormality(ordinary.stability, seen.losses)


def both_scores(ordinary: Ordinary, seen: Seen) -> Float:
    """Sum the standardised scores of distance and second look, (n,)."""
    joint = _unusual(ordinary.means, ordinary.precisions, seen.vectors)
    return (
        abnormality(ordinary.distance, seen.distances[:, 0])
        + abnormality(ordinary.doubt, seen.doubt[:, np.newaxis])
        + abnormality(ordinary.joint, joint[:, np.newaxis])
    )


def _precision(vectors: Float) -> Float:
    covariance = np.cov(vectors.T)
    variances = covariance.diagonal()
    # A value that never varies must not make the matrix singular.
    ridge = np.where(variances > 0, RIDGE * variances, 1.0)
    return np.asarray(np.linalg.inv(covariance + np.diag(ridge)))


def _unusual(means: Float, precisions: Float, vectors: Float) -> Float:
    """Compute the log squared Mahalanobis distance (n,) to the nearest condition."""
    found = []
    for mean, precision in zip(means, precisions, strict=True):
        offsets = vectors - mean
        found.append(np.einsum("ni,ij,nj->n", offsets, precision, offsets))
    return log_distance(np.min(found, axis=0))
