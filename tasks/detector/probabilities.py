"""Compute class probabilities from logits, calibrated by a temperature (Guo et al. 2017).

Labelled cells adapt the log-odds of one class by a scale and a bias (Platt 1999).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp, softmax

from tasks import bundles, types

# Of the cells for which a diagnosis is right half of the time at even odds. Half of the cells that
# a network learns from are parasitized, and few of a smear's: the largest share with which at most
# 2% of the healthy cells are called at the worst of three laboratories and at home.
PARASITIZED_SHARE = 0.25
SCALES = 0.5  # the prior's standard deviation of a scale's logarithm
BIASES = 1.5  # and of a bias, as between the error rates of laboratories (`counting.rates`)


def probabilities(logits: types.Numbers, temperature: float) -> types.Float:
    """Compute the softmax (n, C), in float64, of logits (n, C) divided by a temperature."""
    return np.asarray(softmax(np.asarray(logits, np.float64) / temperature, axis=1))


def log_odds(logits: types.Numbers, temperature: float, place: int) -> types.Float:
    """Compute the calibrated log-odds (n,) of one class from logits (n, C).

    Log-odds of a probability would lose digits near 1; these do not.

    >>> log_odds(np.asarray([[3.0, 1.0]]), 2.0, 0)
    array([1.])
    """
    scaled = np.asarray(logits, np.float64) / temperature
    others = np.delete(scaled, place, axis=1)
    return np.asarray(scaled[:, place] - logsumexp(others, axis=1))


@dataclass(frozen=True)
class Adaptation(bundles.Bundle):
    """A change of a class's log-odds: x becomes ``scale`` x + ``bias``."""

    scale: float = 1.0
    bias: float = 0.0

    def of(self, log_odds: types.Float) -> types.Float:
        """Adapt log-odds (n,)."""
        return np.asarray(self.scale * log_odds + self.bias)

    def of_logits(self, logits: types.Numbers, temperature: float, place: int) -> types.Numbers:
        """Adapt the log-odds of one class in logits (n, C), still to be divided by the temperature.

        >>> Adaptation(2.0, 0.5).of_logits(np.asarray([[3.0, 1.0]]), 2.0, 0)
        array([[7., 2.]])
        """
        adapted = self.scale * np.asarray(logits, np.float64)
        adapted[:, place] += self.bias * temperature
        return adapted


UNCHANGED = Adaptation()


def as_logits(log_odds: types.Float, temperature: float, place: int) -> types.Float:
    """Make logits (n, 2) with the log-odds (n,) of a class after division by a temperature.

    >>> as_logits(np.asarray([3.0]), 2.0, 0)
    array([[ 3., -3.]])
    """
    half = np.asarray(log_odds) * temperature / 2
    return np.stack([half, -half] if place == 0 else [-half, half], axis=1)


def fit_adaptation(log_odds: types.Float, parasitized: types.Mask) -> Adaptation:
    """Fit a scale and a bias to labelled cells (n,), of which `PARASITIZED_SHARE` count as such."""
    from scipy.optimize import minimize  # screening fits nothing

    weights = weighted(parasitized) * len(log_odds)
    targets = parasitized.astype(np.float64)

    def loss(x: types.Float) -> tuple[float, types.Float]:
        scale = np.exp(x[0])
        adapted = scale * log_odds + x[1]
        slope = weights * (expit(adapted) - targets)
        value = weights @ log_losses(adapted, targets)
        value += 0.5 * ((x[0] / SCALES) ** 2 + (x[1] / BIASES) ** 2)
        by_scale = scale * (slope @ log_odds) + x[0] / SCALES**2
        return float(value), np.asarray([by_scale, slope.sum() + x[1] / BIASES**2])

    least = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-3, 3), (-20, 20)])
    return Adaptation(float(np.exp(least.x[0])), float(least.x[1]))


def log_losses(log_odds: types.Float, targets: types.Float) -> types.Float:
    """Compute the log loss (n,) of cells, given the probabilities (n,) they should have."""
    return np.asarray(np.logaddexp(0, log_odds) - targets * log_odds)


def weighted(parasitized: types.Mask) -> types.Float:
    """Compute weights (n,) that give parasitized cells `PARASITIZED_SHARE`, and others the rest.

    >>> weighted(np.asarray([True, True, False]))
    array([0.125, 0.125, 0.75 ])
    """
    kinds = np.bincount(parasitized.astype(np.intp), minlength=2)
    shares = np.asarray([1 - PARASITIZED_SHARE, PARASITIZED_SHARE]) / kinds
    return np.asarray(shares[parasitized.astype(np.intp)])
