"""Error rates of counting thresholds that are the same on every slide."""

import numpy as np

from tasks.smears.counting.interpretation import ErrorRates, KnownRates
from tasks.smears.counting.rates import NODES, Rate


def fixed(value: float) -> Rate:
    """A rate that is known and does not vary between slides."""
    return Rate(value, value, value, 0.0, 9, 900, np.full(NODES, value))


RATES = KnownRates(
    ErrorRates(3.0, fixed(0.001), fixed(0.8)), ErrorRates(1.0, fixed(0.01), fixed(0.9))
)
