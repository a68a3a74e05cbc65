"""Detectors without a slide's own normal, fitted on given features."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tasks.detector.calibration import calibrate, log_distance
from tasks.detector.detector import Detector
from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments


def fit_detector(
    taps: Mapping[str, NDArray[np.floating]],
    labels: NDArray[np.integer],
    classes: int,
    groups: NDArray[np.integer],
) -> Detector:
    """Fit and calibrate a detector on the same images; ``groups`` has their patients."""
    gaussians = {tap: tied_gaussian(moments(taps[tap], labels, classes)) for tap in sorted(taps)}
    logs = [log_distance(nearest_class_distance(g, taps[tap])) for tap, g in gaussians.items()]
    return Detector(gaussians, calibrate(np.stack(logs, axis=1), groups))
