"""Score images by a detector: Gaussians of its taps, and the calibration that joins them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tasks import bundles, types
from tasks.detector.calibration import Calibration, abnormality, log_distance, p_values, threshold
from tasks.detector.mahalanobis import TiedGaussian, nearest_class_distance, tied_gaussian
from tasks.detector.moments import ClassStatistics
from tasks.detector.slides import cell_score, own_normal, references
from tasks.detector.witnesses import Witnesses


@dataclass(frozen=True)
class Detector(bundles.Bundle):
    """Gaussians by tap, and the calibration of their distances in the order of the taps.

    ``own`` scores cells by their own slide; None if too few slides were fitted to know how slides
    differ. ``witnesses`` diagnose; None if only the network does. Slides of too few cells are
    compared with ``reference``, or with their night or fitted cells if it is None.
    """

    gaussians: dict[str, TiedGaussian] = field(metadata={bundles.KEPT_AS: "tap"})
    calibration: Calibration
    own: own_normal.OwnNormal | None = None
    witnesses: Witnesses | None = None
    reference: cell_score.SlideNormal | None = None

    @cached_property
    def fallback(self) -> references.Reference:
        """Make the reference of cells without a nearer one: the detector's own, or fitted cells."""
        assert self.own is not None
        return references.fallback_reference(self.own, self.reference)

    @property
    def taps(self) -> list[str]:
        """List the taps in the order of the columns of `distances`."""
        return list(self.gaussians)

    @property
    def scales(self) -> dict[str, tuple[float, float]]:
        """Return, by tap, the mean and deviation of its log distance over calibration images."""
        mean, deviation = self.calibration.mean.tolist(), self.calibration.deviation.tolist()
        return dict(zip(self.taps, zip(mean, deviation, strict=True), strict=True))

    def abnormal_from(self, alpha: float) -> float:
        """Compute the least abnormality at which a cell is abnormal among those of its slide."""
        cells = self.calibration if self.own is None else self.own.calibration.cells
        return threshold(cells, alpha)


@dataclass(frozen=True)
class Scores:
    """The abnormality of n images.

    ``distances`` (n, T) are squared distances to the population, with ``population_p_value`` (n,).
    ``abnormality`` and ``p_value`` (n,) are relative to the reference in ``compared_with`` (n,).
    ``unlike`` (n,) marks images further from fitted cells than any smear's cells can be.
    """

    distances: types.Float
    abnormality: types.Float
    p_value: types.Float
    population_p_value: types.Float
    compared_with: NDArray[np.object_]
    unlike: types.Mask

    def compared(self, cells: references.CellScores) -> "Scores":
        """Return the scores relative to the cells' own references."""
        names = ("abnormality", "p_value", "compared_with", "unlike")
        return replace(self, **{name: getattr(cells, name) for name in names})


def fit_gaussians(statistics: ClassStatistics) -> dict[str, TiedGaussian]:
    """Fit a Gaussian to every tap, ordered by name; ValueError names a tap that does not vary."""
    gaussians = {}
    for tap, moments in sorted(statistics.taps.items()):
        try:
            gaussians[tap] = tied_gaussian(moments)
        except ValueError as error:
            raise ValueError(f"tap {tap}: {error}") from None
    return gaussians


def score(detector: Detector, taps: Mapping[str, types.Numbers]) -> Scores:
    """Score images by their taps' features, (n, d) each, against the population."""
    by_tap = [nearest_class_distance(g, taps[name]) for name, g in detector.gaussians.items()]
    distances = np.stack(by_tap, axis=1)
    fused = abnormality(detector.calibration, log_distance(distances))
    p = p_values(detector.calibration, fused)
    n = len(fused)
    compared_with, unlike = np.full(n, references.POPULATION, object), np.zeros(n, bool)
    return Scores(distances, fused, p, p.copy(), compared_with, unlike)
