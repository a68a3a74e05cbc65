"""Measure false alarms on new patients for two ways of calibrating.

Either each of some fitted patients is left out in turn and scored by the others, or these patients
are held out of the statistics and only calibrate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.detector.calibration import (
    Calibration,
    abnormality,
    calibrate,
    leave_group_out,
    log_distance,
    p_values,
)
from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import Moments, moments, retract
from tasks.evaluation.metrics import Interval, interval, resampled
from tasks.types import Float

LEFT_OUT = "each left out in turn"
HELD_OUT = "held out"
DRAWS = 5  # of the calibrating patients
REPEATS = 1000


@dataclass(frozen=True)
class Images:
    """Images by tap, (n, d) each, with their labels (n,) and patients (n,)."""

    taps: list[NDArray[np.float32]]
    labels: NDArray[np.int8]
    patients: NDArray[np.str_]


@dataclass(frozen=True)
class Realised:
    """The rate of false alarms at a nominal level, by patient and by image.

    Rates on ``images`` are means over random choices of ``patients`` calibrating patients.
    """

    method: str
    patients: int
    images: int
    alpha: float
    by_patient: Interval
    by_image: Interval


def realised(
    fitted: Images, unseen: Images, patients: int, alphas: Sequence[float]
) -> list[Realised]:
    """Measure realised false-alarm rates when some of the fitted patients calibrate.

    ``unseen`` are ordinary images of other patients. ``patients`` fitted ones calibrate; at least
    one other remains.
    """
    fitted = _labelled(fitted)
    names = np.unique(fitted.patients)
    chances: dict[str, list[Float]] = {LEFT_OUT: [], HELD_OUT: []}
    for draw in range(DRAWS):
        chosen = np.random.default_rng(draw).permutation(names)[:patients]
        calibrating = np.isin(fitted.patients, chosen)
        chances[LEFT_OUT].append(_p_values(fitted, unseen, calibrating, left_out=True))
        if not calibrating.all():
            chances[HELD_OUT].append(_p_values(fitted, unseen, calibrating, left_out=False))
    weights = resampled(np.unique(unseen.patients, return_inverse=True)[1], REPEATS)
    return [
        _rates(method, patients, alpha, np.stack(draws), unseen.patients, weights)
        for method, draws in chances.items()
        if draws
        for alpha in alphas
    ]


def _p_values(
    fitted: Images, unseen: Images, calibrating: NDArray[np.bool_], *, left_out: bool
) -> Float:
    """Compute p-values (n,) of unseen images."""
    own, others = [], []
    _, groups = np.unique(fitted.patients[calibrating], return_inverse=True)
    classes = int(fitted.labels.max()) + 1
    labels = fitted.labels
    for features, unseen_tap in zip(fitted.taps, unseen.taps, strict=True):
        held, held_labels = features[calibrating], labels[calibrating]
        total = moments(features, labels, classes)
        if left_out:
            column = np.empty(len(held))
            for group in range(groups.max() + 1):
                mine = groups == group
                column[mine] = leave_group_out(total, held[mine], held_labels[mine])
        else:
            total = retract(total, moments(held, held_labels, classes))
            column = _log_distances(total, held)
        own.append(column)
        others.append(_log_distances(total, unseen_tap))
    calibration: Calibration = calibrate(np.stack(own, axis=1), groups)
    return p_values(calibration, abnormality(calibration, np.stack(others, axis=1)))


def _log_distances(total: Moments, features: NDArray[np.floating]) -> Float:
    return log_distance(nearest_class_distance(tied_gaussian(total), features))


def _rates(
    method: str,
    count: int,
    alpha: float,
    chances: Float,
    patients: NDArray[np.str_],
    weights: Float,
) -> Realised:
    alarm = (chances <= alpha).mean(axis=0)
    _, index, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    each = 1.0 / (len(sizes) * sizes[index])  # patients have equal weights
    by_patient = (weights * each) @ alarm / (weights @ each)
    by_image = weights @ alarm / weights.sum(axis=1)
    return Realised(
        method,
        count,
        len(alarm),
        alpha,
        interval(float(each @ alarm), by_patient),
        interval(float(alarm.mean()), by_image),
    )


def _labelled(images: Images) -> Images:
    known = images.labels >= 0
    return Images([tap[known] for tap in images.taps], images.labels[known], images.patients[known])
