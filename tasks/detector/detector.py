"""A detector: the fitted Gaussians of its taps and the calibration that fuses them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.detector.calibration import Calibration, abnormality, log_distance, p_values
from tasks.detector.mahalanobis import TiedGaussian, nearest_class_distance, tied_gaussian
from tasks.detector.moments import States, in_space
from tasks.types import Float

SPACE = "raw"  # the space of `tasks.detector.moments.SPACES` that detectors score in


@dataclass(frozen=True)
class Detector:
    """Gaussians by tap, and the calibration of their distances in the order of the taps."""

    gaussians: dict[str, TiedGaussian]
    calibration: Calibration

    @property
    def taps(self) -> list[str]:
        """The taps' names, in the order of `distances`' columns."""
        return list(self.gaussians)

    @property
    def scales(self) -> dict[str, tuple[float, float]]:
        """By tap, the mean and deviation of its log distance over calibration images."""
        mean, deviation = self.calibration.mean.tolist(), self.calibration.deviation.tolist()
        return dict(zip(self.taps, zip(mean, deviation, strict=True), strict=True))


@dataclass(frozen=True)
class Scores:
    """``distances`` (n, T), squared; ``abnormality`` (n,) and ``p_value`` (n,)."""

    distances: Float
    abnormality: Float
    p_value: Float


def fit_gaussians(statistics: States) -> dict[str, TiedGaussian]:
    """A Gaussian for every tap of the statistics, in the order of the taps' names.

    Raises:
        ValueError: a tap has no images or does not vary; the message names it.
    """
    gaussians = {}
    suffix = f"/{SPACE}"
    # The names are sorted, not the keys: "layer2.1/raw" comes before "layer2/raw".
    for tap in sorted(key.removesuffix(suffix) for key in statistics if key.endswith(suffix)):
        try:
            gaussians[tap] = tied_gaussian(statistics[f"{tap}{suffix}"])
        except ValueError as error:
            raise ValueError(f"tap {tap}: {error}") from None
    return gaussians


def score(detector: Detector, taps: Mapping[str, NDArray[np.floating]]) -> Scores:
    """Score images by their taps' features, (n, d) each."""
    distances = np.stack(
        [
            nearest_class_distance(gaussian, in_space(SPACE, taps[name]))
            for name, gaussian in detector.gaussians.items()
        ],
        axis=1,
    )
    fused = abnormality(detector.calibration, log_distance(distances))
    return Scores(distances, fused, p_values(detector.calibration, fused))


def to_arrays(detector: Detector) -> dict[str, Float]:
    """A detector as named arrays, for keeping."""
    arrays = {f"calibration/{k}": v for k, v in vars(detector.calibration).items()}
    for name, gaussian in detector.gaussians.items():
        arrays[f"tap/{name}/means"] = gaussian.means
        arrays[f"tap/{name}/factor"] = gaussian.factor
        arrays[f"tap/{name}/shrinkage"] = np.asarray([gaussian.shrinkage])
    return arrays


def from_arrays(arrays: Mapping[str, Float]) -> Detector:
    """A detector back from `to_arrays`."""
    names = sorted(key.split("/")[1] for key in arrays if key.endswith("/factor"))
    return Detector(
        {
            name: TiedGaussian(
                arrays[f"tap/{name}/means"],
                arrays[f"tap/{name}/factor"],
                float(arrays[f"tap/{name}/shrinkage"][0]),
            )
            for name in names
        },
        Calibration(
            *(arrays[f"calibration/{k}"] for k in ("mean", "deviation", "scores", "weights"))
        ),
    )
