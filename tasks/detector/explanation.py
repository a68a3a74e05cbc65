"""Explain why an image is abnormal: which tap deviates most, and at which locations.

A tap's feature f is the mean of its map F over locations, and the squared Mahalanobis distance to a
class is linear in each of its two factors, so it is a sum over locations without a remainder:

    (f - mu)^T P (f - mu) = mean_hw (F_hw - mu)^T P (f - mu).

A location with a negative share brings the image nearer to the class. Each location sees the pixels
of its receptive field, which is wider than its own square of the image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from tasks.detector.calibration import log_distance, standardised
from tasks.detector.detector import Detector
from tasks.detector.mahalanobis import TiedGaussian, class_distances
from tasks.types import Float


@dataclass(frozen=True)
class Explanation:
    """The explanation of one image's score.

    ``deviations`` (T,) are the taps' standardised log distances, ``tap`` is the most deviating tap,
    ``nearest`` the number of the nearest class there, and ``shares`` (h, w) are the contributions
    of the locations to its squared distance, which is their mean. ``shares`` is None if the tap has
    no locations.
    """

    deviations: Float
    tap: str
    nearest: int
    shares: Float | None


def explain(
    detector: Detector,
    pooled: Mapping[str, NDArray[np.floating[Any]]],
    maps: Mapping[str, NDArray[np.floating[Any]]],
) -> list[Explanation]:
    """Explain n images by their taps.

    Args:
        detector: the one that scored them.
        pooled: by tap, features (n, d).
        maps: by tap, features before pooling (n, d, h, w), for taps that have maps.
    """
    distances = {
        name: class_distances(gaussian, pooled[name])
        for name, gaussian in detector.gaussians.items()
    }
    nearest = np.stack([found.min(axis=1) for found in distances.values()], axis=1)
    deviations = standardised(detector.calibration, log_distance(nearest))
    explanations = []
    for i, most in enumerate(deviations.argmax(axis=1)):
        tap = detector.taps[most]
        near = int(distances[tap][i].argmin())
        shares = (
            location_shares(detector.gaussians[tap], maps[tap][i], near) if tap in maps else None
        )
        explanations.append(Explanation(deviations[i], tap, near, shares))
    return explanations


def location_shares(
    gaussian: TiedGaussian, features: NDArray[np.floating[Any]], nearest: int
) -> Float:
    """Divide the squared distance to a class among locations, (h, w); their mean is the distance.

    Args:
        gaussian: of the tap.
        features: (d, h, w), before pooling.
        nearest: the number of the class.
    """
    mean = gaussian.means[nearest]
    centred = np.asarray(features, np.float64) - mean[:, None, None]
    direction = cho_solve((gaussian.factor, True), centred.mean(axis=(1, 2)))
    return np.asarray(np.einsum("dhw,d->hw", centred, direction))
