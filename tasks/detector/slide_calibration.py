"""Calibrate a slide's own normal: treat every fitted slide as one that is scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.detector.calibration import Calibration, calibrate, log_distance
from tasks.detector.slide_distance import Prior, Taps, standardised_distances, usable_rows
from tasks.detector.slide_normal import Choices, leaning, slide_normal
from tasks.types import Float


@dataclass(frozen=True)
class FittedSlide:
    """Hold what a fitted slide (or patient) tells of scored slides, by a prior without it.

    ``deviations`` (n, T) are its cells' log distances, standardised by its own ``location`` and
    ``scale`` (T,), NaN where it has too few cells; ``kept`` counts those in its reference;
    ``population`` (n, T) are log distances to the prior; ``log_t2`` (T,) is how far the slide is.
    """

    deviations: Float
    location: Float
    scale: Float
    kept: int
    population: Float
    log_t2: Float


@dataclass(frozen=True)
class OwnCalibration:
    """Hold the calibrations of cells by their slide, of cells by the prior, and of slides.

    ``location`` and ``scale`` (T,) are those of fitted slides, for `Prior`.
    """

    cells: Calibration
    population: Calibration
    slides: Calibration
    location: Float
    scale: Float


def fitted_slide(
    priors: Mapping[str, Prior],
    taps: Taps,
    predicted: NDArray[np.integer],
    choices: Choices | None = None,
) -> FittedSlide:
    """Treat a fitted slide as one that is scored.

    It is done twice for all slides: with priors that have no location and scale, from which
    `slides_spread` finds these, and with priors that have them (`with_spread`).

    Args:
        priors: from the statistics without the slide, and without its patient.
        taps: features (n, d).
        predicted: (n,) classes as diagnosed, for that is what scoring has.
        choices: as scoring has them.
    """
    normal = slide_normal(priors, taps, predicted, choices)
    usable = usable_rows(priors, taps, predicted)
    mine = {tap: np.asarray(taps[tap][usable]) for tap in priors}
    classes, kept = np.asarray(predicted)[usable], normal.kept[usable]
    leans = leaning(priors, mine, classes, np.ones(len(classes), bool))
    population = standardised_distances(leans, mine, classes, np.zeros(len(classes), bool))
    deviations = np.full_like(population, np.nan)
    own_level = normal.level == "slide"
    if own_level:
        deviations = standardised_distances(normal, mine, classes, kept)
    own = [normal.taps[tap] for tap in sorted(normal.taps)]
    return FittedSlide(
        deviations,
        np.asarray([tap.location if own_level else np.nan for tap in own]),
        np.asarray([tap.scale if own_level else np.nan for tap in own]),
        int(kept.sum()),
        population,
        log_distance(np.asarray([tap.t2 for tap in own])),
    )


def slides_spread(slides: Sequence[FittedSlide]) -> tuple[Float, Float]:
    """Average the location and scale (T,) of log distances, each slide weighing the same.

    Raises:
        ValueError: no fitted slide has enough cells for a normal of its own.
    """
    own = [slide for slide in slides if np.isfinite(slide.location).all()]
    if not own:
        raise ValueError("no fitted slide has enough cells for a normal of its own")
    location = np.mean([slide.location for slide in own], axis=0)
    return location, np.exp(np.mean([np.log(slide.scale) for slide in own], axis=0))


def own_calibration(slides: Sequence[FittedSlide]) -> OwnCalibration:
    """Calibrate on fitted slides, each of which weighs the same.

    Raises:
        ValueError: no fitted slide has enough cells for a normal of its own.
    """
    location, scale = slides_spread(slides)
    own = [slide.deviations for slide in slides if np.isfinite(slide.location).all()]
    return OwnCalibration(
        calibrate(np.concatenate(own), _numbered([len(z) for z in own])),
        calibrate(
            np.concatenate([slide.population for slide in slides]),
            _numbered([len(slide.population) for slide in slides]),
        ),
        calibrate(np.stack([slide.log_t2 for slide in slides]), np.arange(len(slides))),
        location,
        scale,
    )


def with_spread(priors: Mapping[str, Prior], location: Float, scale: Float) -> dict[str, Prior]:
    """Add to priors the location and scale (T,) that fitted slides have."""
    spread = zip(location.tolist(), scale.tolist(), strict=True)
    return {
        tap: replace(prior, location=place, scale=width)
        for (tap, prior), (place, width) in zip(sorted(priors.items()), spread, strict=True)
    }


def _numbered(lengths: Sequence[int]) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(lengths)), lengths)
