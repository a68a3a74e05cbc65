"""Compute class probabilities of logits, calibrated by a temperature (Guo et al. 2017)."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tasks.types import Float


def probabilities(logits: NDArray[np.floating], temperature: float) -> Float:
    """Compute the softmax (n, C), in float64, of logits (n, C) divided by a temperature.

    >>> probabilities(np.asarray([[0.0, 0.0]]), 1.5)
    array([[0.5, 0.5]])
    """
    return np.asarray(softmax(np.asarray(logits, np.float64) / temperature, axis=1))
