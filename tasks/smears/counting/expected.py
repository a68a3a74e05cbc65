"""Estimate the errors of unlabelled diagnoses from their calibrated probabilities.

A diagnosis of probability p is right with probability p, so sums over cells estimate the result of
a comparison with the truth (confidence-based performance estimation, CBPE, as in NannyML). This
holds as long as the calibration does; a shift of features away from those of the calibration also
shifts the estimates.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

Z = float(ndtri(0.975))


@dataclass(frozen=True)
class ExpectedErrors:
    """Estimates for one group of cells, with 95% intervals from chance alone.

    ``false_calls`` and ``missed`` are the expected numbers of false calls and of misses;
    ``sensitivity`` and ``accuracy`` are shares, NaN without cells.
    """

    false_calls: float
    missed: float
    sensitivity: float
    sensitivity_low: float
    sensitivity_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def expected_errors(
    called: float, others: float, hits: float, missed: float, v_hits: float, v_missed: float
) -> ExpectedErrors:
    """Estimate the errors of a group of cells.

    Args:
        called: the number of cells called parasitized.
        others: the number of other cells.
        hits: the sum of the probabilities p of being parasitized, over the called cells.
        missed: the same over the other cells.
        v_hits: the sum of p (1 - p) over the called cells.
        v_missed: the same over the other cells.
    """
    cells, parasites = called + others, hits + missed
    sensitivity = hits / parasites if parasites else float("nan")
    accuracy = (hits + others - missed) / cells if cells else float("nan")
    # The delta method: of a share of two independent sums, and of a mean.
    spread = (1 - sensitivity) ** 2 * v_hits + sensitivity**2 * v_missed
    by_sensitivity = Z * np.sqrt(spread) / parasites if parasites else float("nan")
    by_accuracy = Z * np.sqrt(v_hits + v_missed) / cells if cells else float("nan")
    return ExpectedErrors(
        called - hits,
        missed,
        sensitivity,
        *_within(sensitivity, by_sensitivity),
        accuracy,
        *_within(accuracy, by_accuracy),
    )


def _within(value: float, half: float) -> tuple[float, float]:
    return float(np.clip(value - half, 0, 1)), float(np.clip(value + half, 0, 1))
