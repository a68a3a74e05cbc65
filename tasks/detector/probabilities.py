"""Compute class probabilities of logits, calibrated by a temperature (Guo et al. 2017).

A laboratory with labelled cells adapts the log-odds of one class, by a scale and a bias.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from tasks.types import Float


def probabilities(logits: NDArray[np.floating], temperature: float) -> Float:
    """Compute the softmax (n, C), in float64, of logits (n, C) divided by a temperature.

    >>> probabilities(np.asarray([[0.0, 0.0]]), 1.5)
    array([[0.5, 0.5]])
    """
    return np.asarray(softmax(np.asarray(logits, np.float64) / temperature, axis=1))


def log_odds(logits: NDArray[np.floating], temperature: float, place: int) -> Float:
    """Compute the log-odds (n,) of one class, as calibrated, of logits (n, C).

    Unlike the logarithm of a probability's odds it is exact where that is near 1.

    >>> log_odds(np.asarray([[3.0, 1.0]]), 2.0, 0)
    array([1.])
    """
    scaled = np.asarray(logits, np.float64) / temperature
    others = np.delete(scaled, place, axis=1)
    return np.asarray(scaled[:, place] - logsumexp(others, axis=1))


@dataclass(frozen=True)
class Adaptation:
    """Hold how a laboratory adapts log-odds of a class: x becomes ``scale`` x + ``bias``."""

    scale: float = 1.0
    bias: float = 0.0

    def of(self, log_odds: Float) -> Float:
        """Adapt log-odds (n,)."""
        return np.asarray(self.scale * log_odds + self.bias)

    def of_logits(
        self, logits: NDArray[np.floating], temperature: float, place: int
    ) -> NDArray[np.floating]:
        """Adapt the log-odds of one class in logits (n, C), which stay to be divided.

        >>> Adaptation(2.0, 0.5).of_logits(np.asarray([[3.0, 1.0]]), 2.0, 0)
        array([[7., 2.]])
        """
        adapted = self.scale * np.asarray(logits, np.float64)
        adapted[:, place] += self.bias * temperature
        return adapted


UNCHANGED = Adaptation()
