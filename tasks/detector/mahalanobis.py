"""Compute the Mahalanobis distance to the nearest class (Lee, Lee, Lee & Shin 2018).

Each class has its mean, and all share one covariance S = sum_c M_c / sum_c n_c, shrunk towards a
multiple of the identity, S_a = (1 - a) S + a tr(S)/d I, by the oracle-approximating coefficient of
Chen, Wiesel, Eldar & Hero (2010).
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular

from tasks import bundles, types
from tasks.detector.moments import Moments

# The least shrinkage: with it, a feature that never varied in the fitted images has at most a
# thousand times the weight of an average one, in standard deviations, however many were fitted.
LEAST_SHRINKAGE = 1e-6


@dataclass(frozen=True)
class TiedGaussian(bundles.Bundle):
    """Class means and the Cholesky factor of the shared covariance.

    ``means`` is (C, d), NaN for a class without images; ``factor`` is lower triangular (d, d)
    with S_a = L L^T; ``shrinkage`` is a.
    """

    means: types.Float
    factor: types.Float
    shrinkage: float


def oas_shrinkage(covariance: types.Float, n: float) -> float:
    """Compute the coefficient a in [0, 1] of Chen et al. (2010), eq. 23, for n images.

    It needs only tr(S), tr(S^2), n and d. As in `sklearn.covariance.oas`, to which it is equal on
    the same data for d > 1, the equation's terms in 2/d are left out.
    """
    d = len(covariance)
    mean_square = float(np.vdot(covariance, covariance)) / d**2
    mu_square = (float(np.trace(covariance)) / d) ** 2
    spread = (n + 1.0) * (mean_square - mu_square / d)
    return 1.0 if spread <= 0 else min((mean_square + mu_square) / spread, 1.0)


def tied_gaussian(moments: Moments) -> TiedGaussian:
    """Fit the shared Gaussian to class statistics; ValueError if nothing varies."""
    n, d = float(moments.n.sum()), moments.width
    if n == 0:
        raise ValueError("there are no images to compute a covariance from")
    covariance = moments.scatter.sum(axis=0) / n
    scale = float(np.trace(covariance)) / d
    if not scale > 0:
        raise ValueError("the features are the same in every fitted image")
    shrinkage = max(oas_shrinkage(covariance, n), LEAST_SHRINKAGE)
    shrunk = (1.0 - shrinkage) * covariance
    shrunk[np.diag_indices(d)] += shrinkage * scale
    means = np.where(moments.n[:, None] > 0, moments.mean, np.nan)
    return TiedGaussian(means, cholesky(shrunk, lower=True), shrinkage)


def class_distances(gaussian: TiedGaussian, features: types.Numbers) -> types.Float:
    """Compute squared distances (n, C) of features (n, d); infinite to a class without images."""
    centre = np.nanmean(gaussian.means, axis=0)
    white = whitened(gaussian.factor, features - centre)
    targets = whitened(gaussian.factor, gaussian.means - centre)
    distances = np.empty((len(features), len(targets)))
    for c, target in enumerate(targets):
        difference = white - target
        distances[:, c] = np.einsum("ij,ij->i", difference, difference)
    return np.where(np.isnan(gaussian.means[:, 0]), np.inf, distances)


def nearest_class_distance(gaussian: TiedGaussian, features: types.Numbers) -> types.Float:
    """Compute the squared distance (n,) to the nearest class: higher is more abnormal."""
    return np.asarray(class_distances(gaussian, features).min(axis=1))


def condition_number(gaussian: TiedGaussian) -> float:
    """Compute the ratio of the largest to the smallest eigenvalue of the shrunk covariance."""
    return float(np.linalg.cond(gaussian.factor) ** 2)


class Axes:
    """The axes in which W, positive definite, and B (d, d) are the identity and a diagonal."""

    def __init__(self, within: types.Float, between: types.Float) -> None:
        self._between, self._vectors = eigh(between, within)

    def along(self, rows: types.Float) -> types.Float:
        """Compute the coordinates (k, d) of rows (k, d), in which W is the identity."""
        return np.asarray(rows @ self._vectors)

    def squared(self, rows: types.Float, n: float = 1.0) -> types.Float:
        """Compute x^T (B + W / n)^-1 x (k,) of every row x (k, d)."""
        return np.asarray(self.along(rows) ** 2 @ (1 / (self._between + 1 / n)))


def whitened(factor: types.Float, rows: types.Numbers) -> types.Float:
    """Apply L^-1 to every row (n, d); the factor L (d, d) is lower triangular."""
    wide = np.asarray(rows, np.float64)
    return np.asarray(solve_triangular(factor, wide.T, lower=True, check_finite=False)).T
