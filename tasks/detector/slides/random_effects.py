"""Estimate the random-effects model of slides, f = m_c + b + e: b ~ N(0, B) by slide, e ~ N(0, W).

This is the two-covariance model, which is PLDA with full-rank factors (Brummer & de Villiers 2010).
Its components depend only on statistics by slide.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from tasks.detector.mahalanobis import LEAST_SHRINKAGE, oas_shrinkage
from tasks.detector.slides.groups import GroupStatistics
from tasks.types import Float

ROUNDS = 5  # of weights and components in `components`; four agree to a percent
LEAST_BETWEEN = 1e-3  # of W: the value of B if slides seem not to differ at all


@dataclass(frozen=True)
class Components:
    """The estimate of the random-effects model at one tap.

    ``means`` (C, d), NaN for a class without cells; ``within`` W and ``between`` B (d, d), both
    shrunk and positive definite; ``groups`` is the number of groups behind them.
    """

    means: Float
    within: Float
    between: Float
    groups: int

    @property
    def k(self) -> float:
        """Compute the population's weight in a slide's shift, in cells: d / tr(W^-1 B)."""
        return len(self.within) / max(float(np.trace(_whitened(self.within, self.between))), 1e-300)


def within_covariance(statistics: GroupStatistics, tap: str) -> tuple[Float, float]:
    """Estimate W (d, d), unbiased and not shrunk, and its degrees of freedom, cells less means.

    Raises:
        ValueError: no group has two cells of a class, or every feature is the same in all of them.
    """
    degrees = float((statistics.n - 1).clip(min=0).sum())
    if degrees == 0:
        raise ValueError("no slide has two cells of a class: variation within slides is unknown")
    covariance = statistics.scatter[tap].sum(axis=0) / degrees
    if not np.trace(covariance) > 0:
        raise ValueError("the features are the same in every cell of a slide")
    return covariance, degrees


def class_means(statistics: GroupStatistics, tap: str, k: float) -> Float:
    """Solve Henderson's mixed-model equations (1975) for the class means (C, d), with W = k B.

    Plain means of cells would mistake differences between the patients of two classes for a
    difference between the classes; with a small k the difference is that within patients with both.
    NaN for an absent class.
    """
    n, means = statistics.n, statistics.means[tap]
    weight = n / (n.sum(axis=1, keepdims=True) + k)
    matrix = np.diag(n.sum(axis=0)) - weight.T @ n
    sums = n[:, :, None] * means
    right = sums.sum(axis=0) - np.einsum("gc,gd->cd", weight, sums.sum(axis=1))
    have = n.sum(axis=0) > 0
    solved = np.full(right.shape, np.nan)
    solved[have] = np.linalg.solve(matrix[np.ix_(have, have)], right[have])
    return solved


def residual_means(statistics: GroupStatistics, tap: str, means: Float) -> tuple[Float, Float]:
    """Compute counts (G,) of groups and mean residuals (G, d) from class means."""
    n = statistics.n
    beyond = n[:, :, None] * (statistics.means[tap] - np.nan_to_num(means))
    count = n.sum(axis=1)
    return count, beyond.sum(axis=1) / count[:, None]


def between_covariance(count: Float, residuals: Float, within: Float, weights: Float) -> Float:
    """Estimate B (d, d) by moments, not shrunk; it may have negative eigenvalues.

    With weights w and their sum s, E sum w (r - rbar)(r - rbar)^T is
    B (s - sum w^2 / s) + W sum w (1 - w / s) / n, whatever the weights (DerSimonian & Laird 1986).

    Args:
        count: (G,) cells of every group.
        residuals: (G, d), the mean of each.
        within: W (d, d).
        weights: (G,), not negative.
    """
    total = weights.sum()
    centred = residuals - weights @ residuals / total
    scatter = (weights[:, None] * centred).T @ centred
    noise = (weights * (1 - weights / total) / count).sum()
    return np.asarray((scatter - noise * within) / (total - (weights**2).sum() / total))


def components(statistics: GroupStatistics, tap: str) -> Components:
    """Estimate the random-effects model of one tap.

    A group weighs n / (n + k), which is best for W = k B; k and B are found in turn.

    Raises:
        ValueError: there are fewer than two groups, or nothing varies within them.
    """
    if len(statistics.keys) < 2:
        raise ValueError("one slide does not show how slides differ")
    covariance, degrees = within_covariance(statistics, tap)
    within = shrunk_within(covariance, degrees)
    k, groups = 1.0, len(statistics.keys)
    for _ in range(ROUNDS):
        means = class_means(statistics, tap, k)
        count, residuals = residual_means(statistics, tap, means)
        raw = between_covariance(count, residuals, within, count / (count + k))
        model = Components(means, within, shrunk_between(raw, within, groups), groups)
        k = model.k
    return model


def shrunk_within(covariance: Float, degrees: float) -> Float:
    """Shrink W towards a multiple of the identity (Chen et al. 2010), as in `tied_gaussian`."""
    d = len(covariance)
    shrinkage = max(oas_shrinkage(covariance, degrees), LEAST_SHRINKAGE)
    return np.asarray(
        (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    )


def shrunk_between(raw: Float, within: Float, groups: int) -> Float:
    """Shrink B towards a multiple of W, for the directions in which groups are uninformative.

    After whitening by W, negative eigenvalues are cut off and the rest are drawn towards their
    mean by the coefficient of Chen et al. (2010) for this number of groups.
    """
    factor = cholesky(within, lower=True)
    values, vectors = np.linalg.eigh(_whitened(within, raw))
    level = max(float(values.mean()), LEAST_BETWEEN)
    values = values.clip(min=0.0)
    if values.sum() > 0:
        values *= level * len(values) / values.sum()  # cutting off must not increase the trace
    shrinkage = oas_shrinkage(np.diag(values), groups - 1.0) if values.sum() > 0 else 1.0
    values = (1 - shrinkage) * values + shrinkage * level
    back = factor @ vectors
    return np.asarray((back * values) @ back.T)


def _whitened(within: Float, matrix: Float) -> Float:
    """Compute L^-1 M L^-T with W = L L^T: a covariance (d, d), whitened by W."""
    factor = cholesky(within, lower=True)
    half = solve_triangular(factor, matrix, lower=True)
    full = solve_triangular(factor, half.T, lower=True)
    return np.asarray((full + full.T) / 2)
