"""Score one slide by its own normal, whether it can be a smear or not."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tasks.detector.slides import cell_score, own_normal
from tasks.detector.slides.normal import slide_normal
from tasks.types import Float


@dataclass(frozen=True)
class SlideScores:
    """A slide's cells given the slide, and the slide given the prior.

    ``abnormality`` and ``p_value`` are (n,), NaN for cells that cannot be scored; ``shift`` is the
    fused score of the slide, ``shift_p_value`` its p-value, and ``beyond`` says that it is farther
    than any fitted slide. ``level`` is what cells were compared with.
    """

    abnormality: Float
    p_value: Float
    level: cell_score.Level
    shift: float
    shift_p_value: float
    beyond: bool


def score_slide(
    known: own_normal.OwnNormal,
    taps: cell_score.Taps,
    predicted: NDArray[np.integer],
    laboratory: cell_score.SlideNormal | None = None,
) -> SlideScores:
    """Score the cells of a slide, and the slide; few cells by the reference of a laboratory."""
    normal = slide_normal(known.priors, taps, predicted)
    if laboratory is not None and normal.level == "population":
        there = {t: replace(own, t2=normal.taps[t].t2) for t, own in laboratory.taps.items()}
        normal = cell_score.SlideNormal(there, "laboratory", normal.kept)
    deviations = cell_score.standardised_distances(normal, taps, predicted, normal.kept)
    scores, p = cell_score.cell_scores(known.calibration, normal, deviations)
    t2 = np.asarray([normal.taps[tap].t2 for tap in sorted(normal.taps)])
    return SlideScores(scores, p, normal.level, *cell_score.shift_scores(known.calibration, t2))
