"""How well a classifier or a detector does, with intervals that respect patients.

Cells of one patient resemble each other, so an interval from resampling cells is too narrow:
patients are resampled instead.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

Float = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def accuracy(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """The share of images whose diagnosis is right."""
    return float(np.mean(truth == predicted))


def sensitivity(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """The share of positive images that are found; NaN where there are none."""
    return float(np.mean(predicted[truth])) if truth.any() else float("nan")


def specificity(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """The share of negative images that are left alone; NaN where there are none."""
    return sensitivity(~truth, ~predicted)


def auroc(positive: NDArray[np.bool_], scores: Float) -> float:
    """Area under the ROC curve, ties counted half; NaN where one side is empty."""
    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, scores))


def tnr_at_tpr(positive: NDArray[np.bool_], scores: Float, tpr: float = 0.95) -> float:
    """The true-negative rate at the threshold that finds at least ``tpr`` of the positives."""
    if positive.all() or not positive.any():
        return float("nan")
    false_positive, true_positive, _ = roc_curve(positive, scores, drop_intermediate=False)
    return float(1.0 - false_positive[true_positive >= tpr][0])


def patient_bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    patients: NDArray[np.integer],
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> Interval:
    """A percentile interval from resampling patients with all their images.

    Args:
        statistic: maps row numbers (with repetition) to a number; NaN draws are left out.
        patients: (n,), the patient of each row.
        repeats: how many times to resample.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    draws = []
    for _ in range(repeats):
        chosen = rng.integers(0, len(rows_of), len(rows_of))
        draws.append(statistic(np.concatenate([rows_of[i] for i in chosen])))
    finite = np.asarray(draws)[np.isfinite(draws)]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
    return Interval(statistic(np.arange(len(patients))), float(low), float(high))
