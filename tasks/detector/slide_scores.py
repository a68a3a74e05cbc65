"""Score a cell given its slide, and a slide given what was fitted."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.detector.calibration import abnormality, log_distance, p_values
from tasks.detector.slide_calibration import OwnCalibration
from tasks.detector.slide_distance import Level, Prior, SlideNormal, Taps, score_parts
from tasks.detector.slide_normal import Choices, slide_normal
from tasks.types import Float


@dataclass(frozen=True)
class SlideScores:
    """Hold the scores of a slide's cells given the slide, and of the slide given the prior.

    ``abnormality`` and ``p_value`` are (n,), NaN for cells that cannot be scored; ``shift`` is the
    fused score of the slide, ``shift_p_value`` its p-value, and ``beyond`` says that it is farther
    than any fitted slide. ``level`` is what cells were compared with.
    """

    abnormality: Float
    p_value: Float
    level: Level
    shift: float
    shift_p_value: float
    beyond: bool


def cell_scores(
    calibration: OwnCalibration, normal: SlideNormal, deviations: Float
) -> tuple[Float, Float]:
    """Compute abnormality and p-value (n,) of standardised log distances (n, T)."""
    level = calibration.population if normal.level == "population" else calibration.cells
    scores, p = (np.full(len(deviations), np.nan) for _ in "sp")
    known = ~np.isnan(deviations).any(axis=1)
    scores[known] = abnormality(level, deviations[known])
    p[known] = p_values(level, scores[known])
    return scores, p


def shift_scores(calibration: OwnCalibration, normal: SlideNormal) -> tuple[float, float, bool]:
    """Compute a slide's shift, its p-value, and whether it is beyond every fitted slide's.

    With K fitted slides no p-value is below 1 / (K + 1). NaN where a slide has no usable cell.
    """
    t2 = np.asarray([[normal.taps[tap].t2 for tap in sorted(normal.taps)]])
    if np.isnan(t2).any():
        return float("nan"), float("nan"), False
    score = abnormality(calibration.slides, log_distance(t2))
    p = p_values(calibration.slides, score)
    return float(score[0]), float(p[0]), bool(score[0] > calibration.slides.scores[-1])


def score_slide(
    priors: Mapping[str, Prior],
    calibration: OwnCalibration,
    taps: Taps,
    predicted: NDArray[np.integer],
    choices: Choices | None = None,
    site: SlideNormal | None = None,
) -> SlideScores:
    """Score a slide that is held in memory; a larger one is scored by `score_parts`."""
    normal = slide_normal(priors, taps, predicted, choices, site)
    parts = list(score_parts(normal, [(taps, predicted, normal.kept)]))
    deviations = np.concatenate(parts) if parts else np.zeros((0, len(priors)))
    scores, p = cell_scores(calibration, normal, deviations)
    return SlideScores(scores, p, normal.level, *shift_scores(calibration, normal))
