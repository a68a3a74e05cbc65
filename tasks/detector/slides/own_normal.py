"""Keep the priors, calibration and limits of fitted slides, and compare a slide with them.

For calibration every fitted slide is scored under a prior without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.detector.calibration import (
    Calibration,
    calibrate,
    group_weights,
    log_distance,
    standardised,
)
from tasks.detector.slides import cell_score, night_smears
from tasks.detector.slides.cell_score import OwnCalibration, Prior, Taps, residuals_of
from tasks.detector.slides.normal import leaning, shift_distance, slide_normal
from tasks.types import Arrays, Float, Integers, Mask, below, nested


@dataclass(frozen=True)
class FittedSlide:
    """The scores of a fitted slide (or patient) under a prior without it.

    ``deviations`` (n, T) are its cells' log distances, standardised by its own ``location`` and
    ``scale`` (T,), NaN with too few cells; ``kept`` counts the cells in its reference;
    ``population`` (n, T) are log distances to the prior; ``log_t2`` (T,) is the slide's distance.
    """

    deviations: Float
    location: Float
    scale: Float
    kept: int
    population: Float
    log_t2: Float


@dataclass(frozen=True)
class OwnNormal:
    """Priors by tap, calibrations, and limits of a smear: without ``floor`` any slide is one."""

    priors: dict[str, Prior]
    calibration: OwnCalibration
    floor: night_smears.Floor | None = None

    def to_arrays(self) -> Arrays:
        """Return named arrays to be stored."""
        arrays = self.calibration.to_arrays()
        for tap, prior in self.priors.items():
            arrays |= nested(f"prior/{tap}", prior.to_arrays())
        if self.floor is not None:
            arrays |= nested("floor", self.floor.to_arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "OwnNormal":
        """Read the parameters back from `to_arrays`."""
        of_priors, calibration = below("prior", arrays), OwnCalibration.from_arrays(arrays)
        taps = sorted({name.rpartition("/")[0] for name in of_priors})
        priors = {tap: Prior.from_arrays(below(tap, of_priors)) for tap in taps}
        floor = below("floor", arrays)
        return cls(
            with_spread(priors, calibration.location, calibration.scale),
            calibration,
            night_smears.Floor.from_arrays(floor) if floor else None,
        )


def fitted_slide(priors: Mapping[str, Prior], taps: Taps, predicted: Integers) -> FittedSlide:
    """Score a fitted slide by priors without its patient, first without location and scale.

    From these scores `slides_spread` estimates both, for priors `with_spread`.
    """
    normal = slide_normal(priors, taps, predicted)
    usable = cell_score.usable_rows(priors, taps, predicted)
    cells = {tap: np.asarray(taps[tap][usable]) for tap in priors}
    classes, kept = np.asarray(predicted)[usable], normal.kept[usable]
    leans = leaning(priors, cells, classes, np.ones(len(classes), bool))
    population = cell_score.standardised_distances(
        leans, cells, classes, np.zeros(len(classes), bool)
    )
    deviations = np.full_like(population, np.nan)
    by_tap = [(tap.location, tap.scale, tap.t2) for _, tap in sorted(normal.taps.items())]
    location, scale, t2 = np.asarray(by_tap).T
    if normal.level == "slide":
        deviations = cell_score.standardised_distances(normal, cells, classes, kept)
    else:
        location, scale = np.full((2, len(by_tap)), np.nan)
    return FittedSlide(deviations, location, scale, int(kept.sum()), population, log_distance(t2))


def slides_spread(
    slides: Sequence[FittedSlide], laboratories: Sequence[str] = ()
) -> tuple[Float, Float]:
    """Estimate the usual location and scale (T,), by `group_weights`; ValueError without any."""
    with_normal = [k for k, slide in enumerate(slides) if np.isfinite(slide.location).all()]
    if not with_normal:
        raise ValueError("no fitted slide has enough cells for a normal of its own")
    owners = np.asarray(laboratories or [""] * len(slides))
    weights = group_weights(owners[with_normal])
    location = weights @ np.stack([slides[k].location for k in with_normal])
    log_scale = weights @ np.stack([np.log(slides[k].scale) for k in with_normal])
    return location, np.exp(log_scale)


def own_calibration(
    slides: Sequence[FittedSlide], laboratories: Sequence[str] = ()
) -> OwnCalibration:
    """Calibrate on fitted slides, weighted as in `slides_spread`, which also refuses small ones."""
    location, scale = slides_spread(slides, laboratories)
    own = [k for k, slide in enumerate(slides) if np.isfinite(slide.location).all()]
    owners = np.asarray(laboratories or [""] * len(slides))

    def calibrated(slides_used: Sequence[int], values: Sequence[Float]) -> Calibration:
        number = np.repeat(slides_used, [len(each) for each in values])
        return calibrate(np.concatenate(values), number, owners[number])

    everything = range(len(slides))
    return OwnCalibration(
        calibrated(own, [slides[k].deviations for k in own]),
        calibrated(everything, [slide.population for slide in slides]),
        calibrated(everything, [slide.log_t2[np.newaxis] for slide in slides]),
        location,
        scale,
    )


def with_spread(priors: Mapping[str, Prior], location: Float, scale: Float) -> dict[str, Prior]:
    """Add the location and scale (T,) of fitted slides to priors."""
    spread = zip(sorted(priors), location.tolist(), scale.tolist(), strict=True)
    return {tap: replace(priors[tap], location=at, scale=width) for tap, at, width in spread}


@dataclass(frozen=True)
class Shift:
    """The distance of a slide from fitted slides, measured on ``judged_cells``.

    ``shift`` is the largest standardised log distance over the taps, at ``shift_tap``,
    ``shift_p_value`` its conformal p-value against fitted slides, and ``shifted`` whether it
    exceeds every fitted slide's. All are None if no cell can be judged.
    """

    judged_cells: int
    shift: float | None
    shift_p_value: float | None
    shifted: bool | None
    shift_tap: str | None


def slide_shift(
    normals: OwnNormal, taps: Taps, predicted: Integers, kept: Mask | None = None
) -> Shift:
    """Compare a slide with fitted ones by features (n, d) and classes (n,) of ``kept`` cells."""
    judged = cell_score.usable_rows(normals.priors, taps, predicted)
    if kept is not None and kept.any():
        judged &= kept
    n = int(judged.sum())
    if not n:
        return Shift(0, None, None, None, None)
    names, residuals = sorted(normals.priors), residuals_of(normals.priors, taps, predicted, judged)
    distances = np.asarray(
        [shift_distance(normals.priors[tap], n, residuals[tap].mean(axis=0)) for tap in names]
    )
    shift, p_value, beyond = cell_score.shift_scores(normals.calibration, distances)
    furthest = standardised(normals.calibration.slides, log_distance(distances)).argmax()
    return Shift(n, shift, p_value, beyond, names[int(furthest)])
